// Readers of a page's server as browsers are: each reads the state and then the events behind it, for as long as there are
// any. And one that asks for the events and never reads a byte of them.
import http from 'node:http';
import net from 'node:net';

/** Follows the events; resolves with how many came when the server ends the connection. */
async function follow(url) {
  const { id } = await (await fetch(new URL('/api/run', url))).json();
  return new Promise((resolve) => {
    let text = '';
    const done = () => resolve([...text.matchAll(/^id: /gm)].length);
    http
      .get(new URL(`/api/events?after=${id}`, url), { agent: false }, (response) => {
        response.setEncoding('utf8').on('data', (part) => {
          text += part;
        });
        response.on('close', done);
      })
      .on('error', done);
  });
}

function neverRead(url) {
  const { port, host } = new URL(url);
  const socket = net.connect(Number(port), '127.0.0.1');
  socket.pause();
  socket.on('error', () => {});
  socket.write(`GET /api/events HTTP/1.1\r\nHost: ${host}\r\n\r\n`);
  return socket;
}

/** Opens `count` readers and one that never reads. `ended` resolves with the events that each reader got. */
export function openReaders(url, count) {
  const silent = neverRead(url);
  const ended = Promise.all(Array.from({ length: count }, () => follow(url).catch(() => 0)));
  return { ended: ended.finally(() => silent.destroy()) };
}
