// The echo server on Node.js, its own modules only: messages are cut from what comes, and corked,
// so that all that a read brought is answered by one write.
//
//   node.js MODE         length, line, bulk, once, tls, udp; prints its port, serves until it is
//                        killed; tls takes the files BENCH_CERT and BENCH_KEY
//   node.js --version    prints what it is
'use strict';
const dgram = require('dgram');
const fs = require('fs');
const net = require('net');
const tls = require('tls');

const BACKLOG = 4096;
const LF = 10;
const LINE_MOST = 65536;
const MEGABYTE = 1024 * 1024;

// ---- messages -----------------------------------------------------------------------------
// A cutter calls back with each message in data -> where what follows them begins, how many bytes
// that needs at least to be worth another look; null if a message is too long.

function packages(header, most) {
  return (data, onMessage) => {
    let at = 0;
    while (data.length - at >= header) {
      const length = data.readUIntBE(at, header);
      if (length > most) return null;
      const past = at + header + length;
      if (past > data.length) return { at, need: past - at };
      onMessage(data.subarray(at, past));
      at = past;
    }
    return { at, need: header };
  };
}

function lines(data, onMessage) {
  let at = 0;
  for (let end; (end = data.indexOf(LF, at)) >= 0; at = end + 1) {
    onMessage(data.subarray(at, end + 1));
  }
  const rest = data.length - at;
  return rest < LINE_MOST ? { at, need: rest + 1 } : null;
}

const cutters = {
  length: packages(2, 65535),
  line: lines,
  bulk: packages(4, 16 * MEGABYTE),
  once: packages(2, 65535),
  tls: packages(2, 65535),
};

// ---- connections --------------------------------------------------------------------------

// Calls back with each message of what comes; a long one is put together once.
function receive(socket, cut, onMessage, onBatch) {
  let parts = [];
  let size = 0;
  let need = 0;
  socket.on('data', (chunk) => {
    parts.push(chunk);
    size += chunk.length;
    if (size < need) return;
    const data = parts.length > 1 ? Buffer.concat(parts, size) : chunk;
    socket.cork();
    const rest = cut(data, onMessage);
    socket.uncork();
    if (!rest) return socket.destroy();
    need = rest.need;
    size = data.length - rest.at;
    parts = size > 0 ? [data.subarray(rest.at)] : [];
    onBatch();
  });
}

// A peer that does not read is not read from.
function echo(socket, cut) {
  receive(socket, cut, (message) => socket.write(message), () => {
    if (socket.writableNeedDrain) socket.pause();
  });
  socket.on('drain', () => socket.resume());
}

function echoOnce(socket, cut) {
  let done = false;
  receive(socket, cut, (message) => {
    if (!done) socket.end(message);
    done = true;
  }, () => {});
}

function handler(mode) {
  const handle = mode === 'once' ? echoOnce : echo;
  return (socket) => {
    socket.setNoDelay(true);
    socket.on('error', () => socket.destroy());
    handle(socket, cutters[mode]);
  };
}

function tlsServer() {
  const cert = fs.readFileSync(process.env.BENCH_CERT);
  const key = fs.readFileSync(process.env.BENCH_KEY);
  return tls.createServer({ cert, key, minVersion: 'TLSv1.3' }, handler('tls'));
}

function serve(mode) {
  const server = mode === 'tls' ? tlsServer() : net.createServer(handler(mode));
  server.listen({ host: '127.0.0.1', port: 0, backlog: BACKLOG }, () => {
    console.log(server.address().port);
  });
}

function serveUdp() {
  const server = dgram.createSocket('udp4');
  server.on('message', (data, from) => server.send(data, from.port, from.address));
  server.bind(0, '127.0.0.1', () => console.log(server.address().port));
}

// ---- the program --------------------------------------------------------------------------

const mode = process.argv[2];
if (mode === '--version') {
  console.log(`Node.js ${process.versions.node}`);
} else if (mode === 'udp') {
  serveUdp();
} else if (Object.hasOwn(cutters, mode)) {
  serve(mode);
} else {
  console.error('unsupported');
  process.exit(2);
}
