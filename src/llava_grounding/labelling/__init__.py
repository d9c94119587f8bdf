"""Labelling at scale: a folder, list, tar or zip of photos becomes a data set in a format that other tools read.

    photos -> labeller -> progress file -> exporter -> COCO, Label Studio, YOLO, Pascal VOC, JSONL

`photos` finds what there is to label, `labeller` asks the model about some photos at once, `progress` keeps every
labelled photo whatever ends the process, `run` puts them together, `cluster` spreads the work over machines, and
`exporters` has one format per file. Nothing here imports a model by itself.
"""
