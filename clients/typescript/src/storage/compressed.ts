/** A store whose large records are kept compressed. */

import type { Put, Storage, Table } from "./storage.js";

/** Compresses texts to texts. */
export interface Codec {
  compress(text: string): Promise<string>;
  expand(packed: string): Promise<string>;
}

/** gzip by the platform's `CompressionStream`; `undefined` where there is none, as in React Native. */
export function gzip(): Codec | undefined {
  if (typeof CompressionStream === "undefined") return undefined;
  const through = async (bytes: Uint8Array, stream: GenericTransformStream) => {
    const body = new Response(bytes as BodyInit).body!;
    return new Uint8Array(await new Response(body.pipeThrough(stream)).arrayBuffer());
  };
  return {
    async compress(text) {
      const bytes = await through(new TextEncoder().encode(text), new CompressionStream("gzip"));
      let binary = "";
      for (const byte of bytes) binary += String.fromCharCode(byte);
      return btoa(binary);
    },
    async expand(packed) {
      const bytes = Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
      return new TextDecoder().decode(await through(bytes, new DecompressionStream("gzip")));
    },
  };
}

interface Packed {
  packed: string;
}

const isPacked = (value: unknown): value is Packed =>
  typeof value === "object" && value !== null && Object.keys(value).length === 1 && "packed" in value;

/** Wraps a store: rows of more than `above` characters of JSON go in compressed, if that makes them smaller. */
export function compressed(inner: Storage, codec: Codec, above = 2048): Storage {
  const expand = async (value: unknown) =>
    isPacked(value) ? (JSON.parse(await codec.expand(value.packed)) as unknown) : value;
  const pack = async (put: Put): Promise<Put> => {
    if (put.table !== "rows" || put.value === undefined) return put;
    const text = JSON.stringify(put.value);
    if (text.length <= above) return put;
    const packed = await codec.compress(text);
    return packed.length < text.length ? { ...put, value: { packed } } : put;
  };
  return {
    get: async (table: Table, key: string) => expand(await inner.get(table, key)),
    list: async (table: Table, prefix: string) => {
      const records = await inner.list(table, prefix);
      return Promise.all(records.map(async ([key, value]): Promise<[string, unknown]> => [key, await expand(value)]));
    },
    // Packed before the transaction begins: IndexedDB ends one that waits for something else.
    commit: async (puts: Put[]) => inner.commit(await Promise.all(puts.map(pack))),
    close: () => inner.close(),
  };
}
