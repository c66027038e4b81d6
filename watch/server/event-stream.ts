// The server-sent events of all pages. Frames are made once and kept in one ring that all clients read from, each at its own
// pace; so the queue of a client is a position. One that has fallen out of the ring is told to read the state anew
// (`behind`), which is the newest there is; one whose socket takes nothing for a while is dropped.
import type { ServerResponse } from 'node:http';
import type { LogLine } from '../../sinks/event-tail.ts';

interface Frame {
  /** Counts all frames of this server. */
  readonly at: number;
  readonly id: string;
  readonly bytes: Buffer;
}

interface Client {
  readonly response: ServerResponse;
  next: number;
  /** When the socket stopped taking; null while it takes. */
  fullSince: number | null;
}

export interface EventStreamOptions {
  /** Bytes of events kept for replay. */
  readonly ringBytes?: number;
  readonly dropAfterMs?: number;
  readonly mostClients?: number;
  readonly now?: () => number;
}

/** The sequence number, and when: a resumed run uses numbers again. */
export const eventId = ({ seq, time }: { readonly seq: number; readonly time: string | null }): string =>
  `${seq}-${Date.parse(time ?? '') || 0}`;

export class EventStream {
  readonly #ringBytes: number;
  readonly #dropAfterMs: number;
  readonly #mostClients: number;
  readonly #now: () => number;
  readonly #clients = new Set<Client>();
  #frames: Frame[] = [];
  #bytes = 0;
  #count = 0;
  #newest = eventId({ seq: -1, time: null });

  constructor(options: EventStreamOptions = {}) {
    this.#ringBytes = options.ringBytes ?? 1 << 21;
    this.#dropAfterMs = options.dropAfterMs ?? 20_000;
    this.#mostClients = options.mostClients ?? 64;
    this.#now = options.now ?? (() => performance.now());
  }

  get clients(): number {
    return this.#clients.size;
  }

  /** Adds to the ring and hands out. */
  push(lines: readonly LogLine[]): void {
    for (const { event, text } of lines) {
      const id = eventId(event);
      // JSON may have a carriage return between its parts, which would end the line for whoever reads the stream.
      const bytes = Buffer.from(`id: ${id}\ndata: ${text.replaceAll('\r', ' ')}\n\n`);
      this.#frames.push({ at: this.#count++, id, bytes });
      this.#bytes += bytes.length;
      this.#newest = id;
    }
    let cut = 0;
    while (this.#bytes > this.#ringBytes && cut < this.#frames.length - 1)
      this.#bytes -= this.#frames[cut++]!.bytes.length;
    if (cut > 0) this.#frames = this.#frames.slice(cut);
    for (const client of this.#clients) this.#pump(client);
  }

  /** What was sent before does not hold any more: everybody reads the state anew. */
  restart(lines: readonly LogLine[] = []): void {
    this.#frames = [];
    this.#bytes = 0;
    // A number nobody has seen, so that every client is behind.
    this.#count++;
    for (const { event } of lines) this.#newest = eventId(event);
    for (const client of this.#clients) this.#pump(client);
  }

  /** To everybody who takes it at once; it has no id and is not replayed. */
  tell(name: string, data: unknown): void {
    const text = `event: ${name}\ndata: ${JSON.stringify(data)}\n\n`;
    for (const client of this.#clients) if (client.fullSince === null) this.#write(client, text);
  }

  /** Keeps connections open through proxies, and drops who does not read. */
  beat(): void {
    for (const client of this.#clients) {
      if (client.fullSince === null) this.#write(client, ': beat\n\n');
      else if (this.#now() - client.fullSince > this.#dropAfterMs) this.#drop(client);
    }
  }

  /** @param after the id of the last event the client has */
  open(response: ServerResponse, after: string): void {
    if (this.#clients.size >= this.#mostClients) {
      response.writeHead(503, { 'Retry-After': '30' }).end(`${this.#mostClients} pages are open already\n`);
      return;
    }
    response.writeHead(200, { 'Content-Type': 'text/event-stream', 'X-Accel-Buffering': 'no' });
    const known = this.#frames.find(({ id }) => id === after);
    const client: Client = {
      response,
      next: known !== undefined ? known.at + 1 : after === this.#newest ? this.#count : -1,
      fullSince: null,
    };
    this.#clients.add(client);
    response.on('drain', () => {
      client.fullSince = null;
      this.#pump(client);
    });
    response.on('close', () => this.#clients.delete(client));
    response.on('error', () => this.#drop(client));
    this.#write(client, 'retry: 1000\n\n');
    this.#pump(client);
  }

  close(): void {
    for (const { response } of this.#clients) response.end();
  }

  #pump(client: Client): void {
    const first = this.#frames[0]?.at ?? this.#count;
    while (client.fullSince === null && client.next < this.#count) {
      if (client.next < first) {
        client.next = this.#count;
        this.#write(client, `event: behind\nid: ${this.#newest}\ndata: {}\n\n`);
      } else {
        this.#write(client, this.#frames[client.next - first]!.bytes);
        client.next++;
      }
    }
  }

  #write(client: Client, frame: string | Buffer): void {
    if (!client.response.write(frame)) client.fullSince ??= this.#now();
  }

  #drop(client: Client): void {
    this.#clients.delete(client);
    client.response.destroy();
  }
}
