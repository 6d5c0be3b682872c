/** SHA-256 of a text, as lower-case hex. React Native has no `crypto.subtle`, and that one is not synchronous. */

const K = new Uint32Array(64);
const START = new Uint32Array(8);

// The fractional parts of the roots of primes, as the standard defines them.
for (let n = 2, found = 0; found < 64; n++) {
  let prime = true;
  for (let d = 2; d * d <= n; d++) if (n % d === 0) prime = false;
  if (!prime) continue;
  const part = (root: number) => ((root - Math.floor(root)) * 0x100000000) | 0;
  if (found < 8) START[found] = part(Math.sqrt(n));
  K[found++] = part(Math.cbrt(n));
}

const rotate = (x: number, by: number) => (x >>> by) | (x << (32 - by));

/** UTF-8 without `TextEncoder`, which not every engine has. */
export function utf8(text: string): Uint8Array {
  if (typeof TextEncoder !== "undefined") return new TextEncoder().encode(text);
  const escaped = unescape(encodeURIComponent(text));
  return Uint8Array.from(escaped, (c) => c.charCodeAt(0));
}

/** The digest of a text in UTF-8. */
export function sha256(text: string): string {
  const input = utf8(text);
  const padded = new Uint8Array(((input.length + 72) >> 6) << 6);
  padded.set(input);
  padded[input.length] = 0x80;
  const view = new DataView(padded.buffer);
  view.setUint32(padded.length - 8, Math.floor(input.length / 0x20000000));
  view.setUint32(padded.length - 4, input.length << 3);
  const h = START.slice();
  const w = new Uint32Array(64);
  for (let at = 0; at < padded.length; at += 64) {
    for (let i = 0; i < 64; i++) {
      if (i < 16) {
        w[i] = view.getUint32(at + 4 * i);
        continue;
      }
      const a = w[i - 15]!;
      const b = w[i - 2]!;
      const s0 = rotate(a, 7) ^ rotate(a, 18) ^ (a >>> 3);
      const s1 = rotate(b, 17) ^ rotate(b, 19) ^ (b >>> 10);
      w[i] = w[i - 16]! + s0 + w[i - 7]! + s1;
    }
    compress(h, w);
  }
  return Array.from(h, (word) => word.toString(16).padStart(8, "0")).join("");
}

function compress(h: Uint32Array, w: Uint32Array): void {
  let [a, b, c, d, e, f, g, i] = h as unknown as [number, number, number, number, number, number, number, number];
  for (let r = 0; r < 64; r++) {
    const s1 = rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25);
    const t1 = (i + s1 + ((e & f) ^ (~e & g)) + K[r]! + w[r]!) | 0;
    const s0 = rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22);
    const t2 = (s0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
    i = g;
    g = f;
    f = e;
    e = (d + t1) | 0;
    d = c;
    c = b;
    b = a;
    a = (t1 + t2) | 0;
  }
  [a, b, c, d, e, f, g, i].forEach((word, at) => (h[at] = (h[at]! + word) | 0));
}
