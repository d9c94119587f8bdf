// Pictures into the page, and files out of it.

const SENT_AS_IS = ["image/png", "image/jpeg", "image/webp"];
const LARGEST = 24_000_000; // bytes; the server takes 25 MB

/**
 * A picture as a data URL that the server takes; what is of another kind is written anew by the browser.
 * @param {Blob} file @returns {Promise<string>}
 */
export async function dataUrl(file) {
  if (SENT_AS_IS.includes(file.type) && file.size <= LARGEST) return read(file);
  const bitmap = await createImageBitmap(file).catch(() => {
    throw new Error("This file is no picture that the browser can read.");
  });
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
  canvas.getContext("2d")?.drawImage(bitmap, 0, 0);
  return canvas.toDataURL("image/jpeg", 0.92);
}

/** @param {Blob} file @returns {Promise<string>} */
function read(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(String(reader.result));
    reader.onerror = () => reject(new Error("This file cannot be read."));
    reader.readAsDataURL(file);
  });
}

/** The first picture of what was dropped or pasted. @param {DataTransfer | null} transfer @returns {File | null} */
export function pictureIn(transfer) {
  return [...(transfer?.files ?? [])].find((file) => file.type.startsWith("image/")) ?? null;
}

/** @param {Blob} blob @param {string} name */
export function download(blob, name) {
  const url = URL.createObjectURL(blob);
  const link = document.createElement("a");
  [link.href, link.download] = [url, name];
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
