/** The demo page: two clients of one hub beside each other, each with a store and a network of its own. */

import { type Client, createClient, type Entity, InUseError, type KnownConflict, openIndexedDb, type Project, room, type Storage } from "../src/index.js";
import { type InboxItem, openPush, type Push } from "../src/push/index.js";
import { avatar, make, NAMES } from "./dom.js";
import { followPushes } from "./pushes.js";

interface Card {
  title: string;
  done: boolean;
  votes: number;
}

interface Pointer {
  x: number;
  y: number;
}

async function token(user: string): Promise<string> {
  const response = await fetch("/demo/token", { method: "POST", body: JSON.stringify({ user }) });
  if (!response.ok) throw new Error("the hub makes no token");
  return ((await response.json()) as { token: string }).token;
}

class Pane {
  private readonly list = make("ul");
  private readonly notes = make("div");
  private readonly state = make("span", "state");
  private readonly here = make("div", "here");
  private readonly log = make("div", "log");
  private readonly cursors = new Map<string, HTMLElement>();
  private readonly online = make("input");

  constructor(
    private readonly root: HTMLElement,
    private readonly user: string,
    private readonly client: Client,
    private readonly project: Project,
    private readonly push: Push,
  ) {}

  start(): void {
    this.state.setAttribute("role", "status");
    this.notes.setAttribute("aria-live", "polite");
    this.log.setAttribute("role", "log");
    this.here.setAttribute("role", "img");
    this.root.replaceChildren(this.bar(), this.form(), this.notes, this.list, this.log);
    const cards = this.project.query<Card>("card", { sort: (a, b) => (a.id < b.id ? -1 : 1) });
    const show = () => this.showCards(cards.get().data);
    cards.subscribe(show);
    this.client.status.subscribe(() => this.showState());
    this.project.conflictsChanged(() => this.showNotes());
    this.project.pendingChanged(() => this.showNotes());
    this.push.inbox.state.subscribe(() => this.showNotes());
    this.presence();
    this.project.subscribe();
    show();
    this.showState();
    const offline = localStorage.getItem(`offline-${this.user}`) !== null;
    this.online.checked = !offline;
    if (!offline) this.client.connect().catch(() => this.showState());
  }

  private bar(): HTMLElement {
    const bar = make("div", "bar");
    this.online.type = "checkbox";
    this.online.addEventListener("change", () => {
      if (this.online.checked) {
        localStorage.removeItem(`offline-${this.user}`);
        this.client.connect().catch(() => this.showState());
      } else {
        localStorage.setItem(`offline-${this.user}`, "");
        this.client.disconnect();
      }
    });
    const screen = make("input");
    screen.type = "checkbox";
    screen.checked = true;
    // An app that nobody looks at acknowledges nothing for its user.
    screen.addEventListener("change", () => this.client.hint(screen.checked ? "foreground" : "background"));
    const switches = make("div", "switches");
    const toggles = ([[screen, "Screen"], [this.online, "Network"]] as const).map(([input, name]) => {
      const toggle = make("label", `switch ${name.toLowerCase()}`);
      toggle.append(input, name);
      return toggle;
    });
    switches.append(...toggles);
    bar.append(avatar(this.user), make("h2", "who", NAMES[this.user]), this.state, this.here, switches);
    return bar;
  }

  private sos(): void {
    const users = Object.keys(NAMES).filter((user) => user !== this.user);
    const notify = { users, title: `SOS from ${NAMES[this.user]}`, lane: "critical" as const, link: "app://sos" };
    this.project.insert("sos", { by: this.user }, { priority: "critical", notify });
  }

  private form(): HTMLElement {
    const form = make("form", "add");
    const title = make("input");
    title.type = "text";
    title.placeholder = "What is to be done?";
    title.setAttribute("aria-label", "New card");
    const sos = make("button", "sos", "SOS");
    sos.type = "button";
    sos.title = "Notify the other one";
    sos.addEventListener("click", () => this.sos());
    form.append(title, make("button", "main", "Add"), sos);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (title.value.trim() === "") return;
      this.project.insert("card", { title: title.value.trim(), done: false, votes: 0 });
      title.value = "";
    });
    return form;
  }

  private showCards(cards: Entity<Card>[]): void {
    const known = new Map([...this.list.children].map((item) => [(item as HTMLElement).dataset["id"], item as HTMLElement]));
    const items = cards.map((card) => {
      const item = known.get(card.id) ?? this.card(card.id);
      const [done, title, votes, tag] = [...item.children] as [HTMLInputElement, HTMLInputElement, HTMLButtonElement, HTMLElement];
      item.className = `card${card.pending > 0 ? " pending" : ""}${card.fields.done ? " done" : ""}`;
      done.checked = card.fields.done;
      // What somebody is typing is theirs.
      if (document.activeElement !== title) title.value = card.fields.title;
      votes.textContent = `▲ ${card.fields.votes}`;
      votes.setAttribute("aria-label", `${card.fields.votes} votes: add one`);
      tag.textContent = card.pending > 0 ? "waiting" : "";
      item.dataset["votes"] = String(card.fields.votes);
      return item;
    });
    if (items.some((item, at) => this.list.children[at] !== item) || items.length !== this.list.children.length) {
      this.list.replaceChildren(...items);
    }
  }

  private card(id: string): HTMLElement {
    const item = make("li");
    item.dataset["id"] = id;
    const done = make("input");
    done.type = "checkbox";
    done.setAttribute("aria-label", "Done");
    done.addEventListener("change", () => this.project.update("card", id, { done: done.checked }));
    const title = make("input");
    title.type = "text";
    title.setAttribute("aria-label", "Title");
    title.addEventListener("change", () => this.project.update("card", id, { title: title.value }));
    const votes = make("button", "votes");
    votes.type = "button";
    votes.title = "Vote";
    votes.addEventListener("click", () => this.project.update("card", id, { votes: Number(item.dataset["votes"]) + 1 }));
    item.append(done, title, votes, make("span", "tag"));
    return item;
  }

  private showState(): void {
    const { connection, problem } = this.client.status.get();
    this.state.className = `state ${connection}`;
    this.state.textContent = connection === "online" ? "online" : this.online.checked ? (problem?.message ?? "connecting …") : "offline";
    this.showNotes();
  }

  private showNotes(): void {
    const waiting = this.project.pending().filter(({ state }) => state === "queued").length;
    const open = this.project.conflicts().filter(({ state }) => state === "open");
    const notes: HTMLElement[] = [];
    if (waiting > 0) notes.push(make("div", "note waiting", `${waiting} edit${waiting > 1 ? "s" : ""} kept on this device until the hub has decided`));
    notes.push(...open.map((conflict) => this.conflict(conflict)));
    const unread = this.push.inbox.state.get().notifications.filter(({ read_at }) => read_at === undefined);
    notes.push(...unread.slice(0, 3).map((item) => this.notification(item)));
    this.notes.replaceChildren(...notes);
  }

  private notification(item: InboxItem): HTMLElement {
    const note = make("div", "note alarm");
    const read = make("button", "read", "Read");
    read.addEventListener("click", () => void this.push.inbox.read(item.nid).catch(() => {}));
    note.append(make("b", "", item.title), make("span", "", new Date(item.at).toLocaleTimeString()), read);
    return note;
  }

  private conflict(conflict: KnownConflict): HTMLElement {
    const note = make("div", "note conflict");
    const mine = String(conflict.client["title"] ?? "");
    const theirs = String(conflict.server["title"] ?? "");
    note.append(make("b", "", "Both of you changed this title. Which one stands?"));
    const choices = make("div", "choices");
    for (const [side, text] of [["client", `Mine: ${mine}`], ["server", `Theirs: ${theirs}`]] as const) {
      const button = make("button", `take-${side}`, text);
      button.addEventListener("click", () => this.project.resolve(conflict.id, { choose: side }));
      choices.append(button);
    }
    note.append(choices);
    return note;
  }

  private presence(): void {
    const board = room<Pointer>(this.client, "demo", "board");
    board.join();
    board.presence.subscribe(() => {
      const { members, joined } = board.presence.get();
      const others = joined ? [...members].filter(([user]) => user !== this.user) : [];
      this.here.replaceChildren(...others.map(([user]) => avatar(user)));
      this.here.ariaLabel = others.length === 0 ? "Nobody else is here" : `${others.map(([user]) => NAMES[user] ?? user).join(", ")} is here, too`;
      for (const [user, cursor] of this.cursors) if (!others.some(([other]) => other === user)) cursor.remove();
      for (const [user, pointer] of others) if (pointer) this.point(user, pointer);
    });
    this.root.addEventListener("pointermove", (event) => {
      const box = this.root.getBoundingClientRect();
      board.setState({ x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height });
    });
    board.on("joined", ({ user }) => user !== this.user && this.say(`${NAMES[user] ?? user} came`));
    board.on("left", ({ user }) => user !== this.user && this.say(`${NAMES[user] ?? user} left`));
  }

  private point(user: string, { x, y }: Pointer): void {
    let cursor = this.cursors.get(user);
    if (!cursor) this.cursors.set(user, (cursor = make("span", `cursor ${user}`, NAMES[user] ?? user)));
    cursor.ariaHidden = "true";
    if (!cursor.isConnected) this.root.append(cursor);
    cursor.style.left = `${x * 100}%`;
    cursor.style.top = `${y * 100}%`;
  }

  private say(text: string): void {
    this.log.prepend(make("div", "", `${new Date().toLocaleTimeString()}  ${text}`));
    while (this.log.children.length > 5) this.log.lastElementChild?.remove();
  }
}

/** Opens a pane's store; while another tab has it, waits for that. */
async function open(name: string, tell: (words: string) => void): Promise<Storage> {
  try {
    return await openIndexedDb({ name });
  } catch (error) {
    if (!(error instanceof InUseError)) throw error;
    tell("The demo is open in another tab. Close that one, and it goes on here.");
    return openIndexedDb({ name, wait: true });
  }
}

const log = document.querySelector<HTMLElement>(".pushes ul")!;
for (const root of document.querySelectorAll<HTMLElement>(".pane")) {
  const user = root.dataset["user"]!;
  const tell = (words: string) => {
    const note = make("div", "note waiting", words);
    note.setAttribute("role", "status");
    root.replaceChildren(note);
  };
  const start = async () => {
    const storage = await open(`syncline-demo-${user}`, tell);
    const client = await createClient({ url: location.origin, getToken: () => token(user), user, storage });
    const push = await openPush(client, { schemes: ["app"], inbox: { project: "demo" } });
    new Pane(root, user, client, await client.project("demo"), push).start();
    if (user === "ana") followPushes(client, log);
  };
  start().catch((error: unknown) => tell(`The demo cannot keep its data in this browser. Allow this page to store data, and load it again. (${error})`));
}
