// A network: its steps, carried out one after the other on float32 maps.

// As in layers/activations.py.
const ACTIVATIONS = {
  "relu": (z) => (z < 0 ? 0 : z),
  "hard-swish": (z) => z * Math.min(Math.max(z / 6 + 0.5, 0), 1),
  "silu": (z) => z * logistic(z),
  "gelu": (z) => z * logistic(1.5957691216057308 * (z + 0.044715 * z * z * z)),
  "prelu": (z, slope) => (z < 0 ? slope * z : z),
  "leaky": (z) => (z < 0 ? 0.01 * z : z),
};

// Each takes a map, its settings and the weights, and returns a map. All but the convolution may
// change the map that they are given: a residual branch, whose input is added, begins with one.
const OPERATIONS = {
  convolution(x, step, weights) {
    const { kernel, stride, padding } = step;
    const source = padding ? padded(x, padding) : x;
    const height = Math.floor((source.height - kernel) / stride) + 1;
    const width = Math.floor((source.width - kernel) / stride) + 1;
    const y = map(step.channels, height, width);
    const inputs = step.depthwise ? 1 : x.channels;
    const add = kernel === 3 ? addFiltered : addScaled;
    for (let channel = 0; channel < step.channels; channel++) {
      const start = channel * height * width;
      if (step.bias !== null)
        y.values.fill(weights[step.bias + channel], start, start + height * width);
      for (let k = 0; k < inputs; k++) {
        const filter = step.weight + (channel * inputs + k) * kernel * kernel;
        add(y, start, source, step.depthwise ? channel : k, stride, weights, filter);
      }
    }
    return y;
  },

  connected(x, step, weights) {
    const y = map(step.channels, 1, 1);
    const count = x.values.length;
    for (let k = 0; k < step.channels; k++) {
      let sum = weights[step.bias + k];
      for (let j = 0; j < count; j++) sum += weights[step.weight + k * count + j] * x.values[j];
      y.values[k] = sum;
    }
    return y;
  },

  residual(x, step, weights) {
    const y = carryOut(step.steps, x, weights);
    for (let k = 0; k < y.values.length; k++) y.values[k] = x.values[k] + step.scale * y.values[k];
    return y;
  },

  activation(x, step, weights) {
    const f = ACTIVATIONS[step.name];
    return changed(x, (value, channel) =>
      f(value, step.slope === null ? 0 : weights[step.slope + channel]));
  },

  affine(x, step, weights) {
    const { weight, bias, each } = step;
    return changed(x, (value, channel, k) => {
      const place = each ? k : channel;
      return value * weights[weight + place] + (bias === null ? 0 : weights[bias + place]);
    });
  },

  maximum: (x, step, weights) =>
    changed(x, (value, channel) => Math.max(value, weights[step.threshold + channel])),

  tanh: (x, step) => changed(x, (value) => Math.tanh(step.slope * value)),

  normalize(x, step) {
    inGroups(x, step.groups, (values) => {
      const { mean, variance } = moments(values, step.centre);
      const scale = 1 / Math.sqrt(variance + step.eps);
      for (let k = 0; k < values.length; k++) values[k] = (values[k] - mean) * scale;
    });
    return x;
  },

  normalizePixels(x, step) {
    const pixels = x.height * x.width;
    const pixel = new Float32Array(x.channels);
    for (let p = 0; p < pixels; p++) {
      for (let c = 0; c < x.channels; c++) pixel[c] = x.values[c * pixels + p];
      const { mean, variance } = moments(pixel, true);
      const scale = 1 / Math.sqrt(variance + step.eps);
      for (let c = 0; c < x.channels; c++) x.values[c * pixels + p] = (pixel[c] - mean) * scale;
    }
    return x;
  },

  localResponse(x) {
    const pixels = x.height * x.width;
    const y = map(x.channels, x.height, x.width);
    for (let c = 0; c < x.channels; c++) {
      for (let p = 0; p < pixels; p++) {
        let sum = 0;
        for (let n = Math.max(0, c - 2); n <= Math.min(x.channels - 1, c + 2); n++)
          sum += x.values[n * pixels + p] ** 2;
        y.values[c * pixels + p] = x.values[c * pixels + p] / (2 + 1e-4 * sum) ** 0.75;
      }
    }
    return y;
  },

  evonormB0(x, step, weights) {
    inGroups(x, x.channels, (values, channel) => {
      const deviation = weights[step.deviation + channel];
      const ofImage = Math.sqrt(moments(values, true).variance + step.eps);
      const slope = weights[step.slope + channel];
      for (let k = 0; k < values.length; k++)
        values[k] /= Math.max(deviation, values[k] * slope + ofImage);
    });
    return x;
  },

  evonormS0(x, step, weights) {
    const members = x.channels / step.groups;
    const pixels = x.height * x.width;
    inGroups(x, step.groups, (values, group) => {
      const scale = 1 / Math.sqrt(moments(values, true).variance + step.eps);
      for (let k = 0; k < values.length; k++) {
        const channel = group * members + Math.floor(k / pixels);
        const gate = step.slope === null ? 1 : logistic(weights[step.slope + channel] * values[k]);
        values[k] *= gate * scale;
      }
    });
    return x;
  },

  maxPool: (x) => pooled(x, (a, b, c, d) => Math.max(a, b, c, d)),

  averagePool: (x) => pooled(x, (a, b, c, d) => (a + b + c + d) / 4),

  globalAverage(x) {
    const y = map(x.channels, 1, 1);
    inGroups(x, x.channels, (values, channel) => {
      y.values[channel] = moments(values, true).mean;
    });
    return y;
  },
};

function map(channels, height, width) {
  return { channels, height, width, values: new Float32Array(channels * height * width) };
}

function carryOut(steps, x, weights) {
  return steps.reduce((y, step) => OPERATIONS[step.op](y, step, weights), x);
}

// The probabilities of a network's classes for pixels, uint8, C × S × S.
function probabilities(network, pixels) {
  const [channels, height, width] = network.shape;
  if (pixels.length !== channels * height * width)
    throw new Error(`expected ${channels} × ${height} × ${width} pixels, got ${pixels.length}`);
  const x = map(channels, height, width);
  for (let k = 0; k < pixels.length; k++) x.values[k] = pixels[k] / 255;
  const logits = carryOut(network.steps, x, network.weights).values;
  const largest = logits.reduce((a, b) => Math.max(a, b));
  const shares = logits.map((value) => Math.exp(value - largest));
  const sum = shares.reduce((a, b) => a + b);
  return shares.map((share) => share / sum);
}

function logistic(z) {
  return 1 / (1 + Math.exp(-z));
}

function padded(x, by) {
  const y = map(x.channels, x.height + 2 * by, x.width + 2 * by);
  for (let row = 0; row < x.channels * x.height; row++) {
    const channel = Math.floor(row / x.height);
    const to = (channel * y.height + by + (row % x.height)) * y.width + by;
    y.values.set(x.values.subarray(row * x.width, (row + 1) * x.width), to);
  }
  return y;
}

// Adds a channel of the source, filtered by 3 × 3 weights, to the values of y from `start`.
function addFiltered(y, start, source, channel, stride, weights, filter) {
  const w = weights.subarray(filter, filter + 9);
  const [w0, w1, w2, w3, w4, w5, w6, w7, w8] = w;
  const { values, width } = source;
  const out = y.values;
  let to = start;
  for (let row = 0; row < y.height; row++) {
    let a = (channel * source.height + row * stride) * width;
    for (let column = 0; column < y.width; column++, a += stride, to++) {
      const b = a + width;
      const c = b + width;
      out[to] += w0 * values[a] + w1 * values[a + 1] + w2 * values[a + 2]
        + w3 * values[b] + w4 * values[b + 1] + w5 * values[b + 2]
        + w6 * values[c] + w7 * values[c + 1] + w8 * values[c + 2];
    }
  }
}

// The same for a filter of one weight.
function addScaled(y, start, source, channel, stride, weights, filter) {
  const w = weights[filter];
  const { values, width } = source;
  const out = y.values;
  let to = start;
  for (let row = 0; row < y.height; row++) {
    let from = (channel * source.height + row * stride) * width;
    for (let column = 0; column < y.width; column++, from += stride) out[to++] += w * values[from];
  }
}

// Changes each value by a function of the value, its channel and its place.
function changed(x, f) {
  const pixels = x.height * x.width;
  for (let channel = 0, k = 0; channel < x.channels; channel++)
    for (let end = k + pixels; k < end; k++) x.values[k] = f(x.values[k], channel, k);
  return x;
}

function inGroups(x, groups, f) {
  const length = x.values.length / groups;
  for (let group = 0; group < groups; group++)
    f(x.values.subarray(group * length, (group + 1) * length), group);
}

// The mean, 0 where values are not centred, and the mean square of the distances from it.
function moments(values, centre) {
  let mean = 0;
  if (centre) {
    for (let k = 0; k < values.length; k++) mean += values[k];
    mean /= values.length;
  }
  let squares = 0;
  for (let k = 0; k < values.length; k++) squares += (values[k] - mean) ** 2;
  return { mean, variance: squares / values.length };
}

function pooled(x, f) {
  const y = map(x.channels, Math.floor(x.height / 2), Math.floor(x.width / 2));
  const { values, width } = x;
  let to = 0;
  for (let channel = 0; channel < y.channels; channel++)
    for (let row = 0; row < y.height; row++)
      for (let column = 0; column < y.width; column++) {
        const k = (channel * x.height + 2 * row) * width + 2 * column;
        y.values[to++] = f(values[k], values[k + 1], values[k + width], values[k + width + 1]);
      }
  return y;
}
