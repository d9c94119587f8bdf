"""Grounded visual chat made from captions or dialogues and human-labelled instances, as section 2.2 of the paper does.

    instances.json ──label_index──┐
                                  ├─tasks─► prompt ─► asking ⇄ store ─► parse ─► verify ─► write ─► GVC, GVC-R, marks
    captions | dialogues ─sources─┘         or matcher ("builtin") ────────────────┘

What flows in: a COCO instances file, and texts about its images. A *sample* is one caption or one dialogue; it becomes
a *task*: its texts (`A1`, `Q1`, ...) and the numbered instances of its image. What flows out of a model is text, which
`parse` reads as marked phrases: a span of the sample's own text with the numbers of instances. So whatever a model
says, only words that were in the sample are ever written, and only ids that are on its image.

- `json_stream` reads files of any size row by row; `label_index` keeps labels on the disk. Memory does not grow with
  the number of samples.
- `endpoints.store` is the only memory of what was asked: SQLite in WAL mode, one row per request under the hash of its
  content (prompt version, model, sampling parameters, messages), written before and after each call. One process at a
  time.
- Two passes: *ask* fills the store and can be stopped at any moment; *assemble* reads nothing but the inputs and the
  store, so that its files are the same however often and wherever the first pass was killed.
- `endpoints.asking` knows endpoints, limits and money; nothing else does, and it knows no samples: `rounds` says what
  is asked. `parse`, `verify` and `matcher` are pure functions.
- Outputs are written aside and exchanged as a set; the manifest comes last.

How it fails: a file of another kind, an unreachable endpoint, a wrong key, an unknown model are errors of one sentence.
A sample that cannot be used is rejected and a phrase that is doubtful is dropped, each counted under its reason.

Text of captions, dialogues, category names and answers is data: it travels as JSON strings in the prompt, is searched
and compared, never executed, formatted with or written unescaped. Knows no model of ours, no tokenizer and no tensors.
"""
