// A colour for every phrase: hues go round by the golden angle, so that neighbours differ. As in the drawings.

const LIGHTNESS = [0.72, 0.6, 0.84];
const CHROMA = [0.17, 0.19, 0.15];

/** @param {number} index Of the phrase, from 0. */
export function colorOf(index) {
  const hue = (50 + index * 137.508) % 360;
  return `oklch(${LIGHTNESS[index % 3]} ${CHROMA[index % 3]} ${hue.toFixed(1)})`;
}
