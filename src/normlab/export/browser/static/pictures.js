// Pictures of any size, converted to what a network sees, as `normlab predict` converts them.

const LARGEST_CANVAS = 4096; // pixels a side: phones have no larger ones
const FRACTION = 2 ** 22; // factors and their sums are whole numbers of so many parts

// Keys 1981, Cubic Convolution Interpolation, equation 8, with a = -1/2.
function cubic(x) {
  const d = Math.abs(x);
  if (d < 1) return (1.5 * d - 2.5) * d * d + 1;
  return d < 2 ? -0.5 * (((d - 5) * d + 8) * d - 4) : 0;
}

// For each of `size` pixels that divide a range of a row of `length` pixels: the first pixel that
// it is made of, and the factors of that and the following ones. The filter is stretched where the
// range has more than `size` pixels, and reaches beyond the range.
function taps(length, start, range, size) {
  const scale = range / size;
  const narrow = 1 / Math.max(1, scale);
  const reach = 2 * Math.max(1, scale);
  return Array.from({ length: size }, (_, k) => {
    const centre = start + (k + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - reach + 0.5));
    const end = Math.min(length, Math.trunc(centre + reach + 0.5));
    const factors = [];
    for (let j = first; j < end; j++) factors.push(cubic((j - centre + 0.5) * narrow));
    const sum = factors.reduce((a, b) => a + b, 0);
    return { first, factors: factors.map((factor) => Math.round((factor / sum) * FRACTION)) };
  });
}

function rounded(sum) {
  return Math.min(255, Math.max(0, Math.floor((sum + FRACTION / 2) / FRACTION)));
}

// The square at the centre of a picture, in `size` × `size` pixels: uint8, 3 × size × size.
// Rows are resized first, then columns, each to whole numbers from 0 to 255, as Pillow does it.
function centred(picture, size) {
  const { data, width, height, left, top, side } = pixelsAround(picture, size);
  const across = taps(width, left, side, size);
  const down = taps(height, top, side, size);
  const narrow = new Uint8Array(3 * height * size);
  for (let channel = 0; channel < 3; channel++)
    for (let row = 0; row < height; row++)
      for (let k = 0; k < size; k++) {
        const { first, factors } = across[k];
        let sum = 0;
        for (let j = 0; j < factors.length; j++)
          sum += factors[j] * data[4 * (row * width + first + j) + channel];
        narrow[(channel * height + row) * size + k] = rounded(sum);
      }
  const result = new Uint8Array(3 * size * size);
  for (let channel = 0; channel < 3; channel++)
    for (let k = 0; k < size; k++)
      for (let column = 0; column < size; column++) {
        const { first, factors } = down[k];
        let sum = 0;
        for (let j = 0; j < factors.length; j++)
          sum += factors[j] * narrow[(channel * height + first + j) * size + column];
        result[(channel * size + k) * size + column] = rounded(sum);
      }
  return result;
}

// The pixels, RGBA on white, of the square at a picture's centre and as far around it as the filter
// reaches, and where the square is in them.
function pixelsAround(picture, size) {
  const side = Math.min(picture.width, picture.height);
  const around = Math.ceil(2 * Math.max(1, side / size)) + 1;
  const [left, top] = [picture.width, picture.height].map((length) => (length - side) / 2);
  const x = Math.max(0, Math.floor(left) - around);
  const y = Math.max(0, Math.floor(top) - around);
  const width = Math.min(picture.width, Math.ceil(left + side) + around) - x;
  const height = Math.min(picture.height, Math.ceil(top + side) + around) - y;
  const shrink = Math.min(1, LARGEST_CANVAS / Math.max(width, height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.round(width * shrink);
  canvas.height = Math.round(height * shrink);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, x, y, width, height, 0, 0, canvas.width, canvas.height);
  return {
    ...{ data: context.getImageData(0, 0, canvas.width, canvas.height).data },
    ...{ width: canvas.width, height: canvas.height },
    ...{ left: (left - x) * shrink, top: (top - y) * shrink, side: side * shrink },
  };
}

// The luma of 3 × N pixels, in 16-bit whole numbers (ITU-R BT.601).
function grey(colours) {
  const count = colours.length / 3;
  return new Uint8Array(count).map((_, k) =>
    (19595 * colours[k] + 38470 * colours[count + k] + 7471 * colours[2 * count + k] + 0x8000)
      >> 16);
}

// A picture's pixels as a network sees them: uint8, C × S × S.
function toPixels(picture, [channels, size]) {
  const colours = centred(picture, size);
  return channels === 1 ? grey(colours) : colours;
}

// Decodes a picture's file, an <img> or a camera's image: upright, its colours as they are stored.
function decode(source) {
  return createImageBitmap(source, { colorSpaceConversion: "none" });
}
