/** What clients and hub said to each other about operations, and what stands in the log: read past the client. */

import assert from "node:assert/strict";
import { once } from "node:events";
import { isDeepStrictEqual } from "node:util";
import { WebSocket } from "ws";
import type { OpenSocket } from "../../src/platform.js";
import type { Op, WriteFrame } from "../../src/protocol/client.gen.js";
import type { ServerChangeFrame, ServerFrame, Verdict } from "../../src/protocol/server.gen.js";
import { EDGE, token } from "./real.js";

/** Listens to the sockets of all clients of a test. */
export class Tape {
  /** Operations as they were sent. */
  readonly sent = new Map<string, Op>();
  /** Verdicts as they were told. */
  readonly verdicts = new Map<string, Verdict>();
  /** What was said twice and differently. */
  readonly changed: unknown[] = [];
  private readonly sockets = new Map<string, WebSocket>();

  /** Opens sockets of one device. */
  opener(device: string): OpenSocket {
    return (url, protocols) => {
      const socket = new WebSocket(url, protocols);
      this.sockets.set(device, socket);
      socket.on("message", (data: Buffer) => this.told(JSON.parse(data.toString()) as ServerFrame));
      const send = socket.send.bind(socket);
      socket.send = (text: string) => {
        const frame = JSON.parse(text) as WriteFrame;
        if (frame.type === "write") for (const op of frame.ops) this.same(this.sent, op);
        send(text);
      };
      return socket as never;
    };
  }

  /** Breaks a device's connection, as a lost network does. */
  cut(device: string): void {
    this.sockets.get(device)?.terminate();
  }

  private told(frame: ServerFrame): void {
    if (frame.type === "written") for (const verdict of frame.verdicts) this.same(this.verdicts, verdict);
  }

  /** An operation that is sent again, and a verdict that is told again, is what it was. */
  private same<T extends { op_id: string }>(known: Map<string, T>, one: T): void {
    const before = known.get(one.op_id);
    // Not thrown here: the client would take it for trouble with its socket.
    if (before && !isDeepStrictEqual(before, one)) this.changed.push([before, one]);
    known.set(one.op_id, one);
  }
}

/** The project's log, from its beginning to its head. */
export async function readLog(project: string): Promise<ServerChangeFrame[]> {
  const socket = new WebSocket(`${EDGE.replace(/^http/, "ws")}/v1/ws`, ["syncline.v1", `bearer.${token("auditor", { [project]: "editor" })}`]);
  const log: ServerChangeFrame[] = [];
  let head = Infinity;
  const complete = new Promise<void>((resolve) => {
    socket.on("message", (data: Buffer) => {
      const frame = JSON.parse(data.toString()) as ServerFrame;
      if (frame.type === "connected") socket.send(JSON.stringify({ type: "subscribe", rooms: [{ room: `project:${project}`, since: 0 }] }));
      else if (frame.type === "subscribed") head = (frame.rooms[0] as { seq?: number }).seq ?? 0;
      else if (frame.type === "change") log.push(frame);
      if (log.length >= head) resolve();
    });
  });
  const failed = once(socket, "close").then(() => assert.fail("the log could not be read"));
  await Promise.race([complete, failed]);
  socket.terminate();
  return log;
}
