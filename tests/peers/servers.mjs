// The peers' servers, each as its own documentation shows it: `node servers.mjs NAME` prints `listening HOST:PORT`.

import { createServer } from 'node:http';

const SERVERS = {
  async 'socket.io'(http) {
    const { Server } = await import('socket.io');
    const io = new Server(http);
    io.on('connection', (socket) => {
      socket.on('echo', (params, answer) => answer(params));
      socket.on('publish', (data) => io.emit('news', data));
    });
  },

  async ws(http) {
    const { WebSocketServer } = await import('ws');
    const server = new WebSocketServer({ server: http });
    server.on('connection', (socket) => {
      socket.on('message', (text) => {
        const { id, method, params } = JSON.parse(text);
        if (method === 'echo') return socket.send(JSON.stringify({ id, result: params }));
        const event = JSON.stringify({ event: 'news', data: params });
        for (const client of server.clients) client.send(event);
      });
    });
  },

  async hocuspocus(http) {
    const { Hocuspocus } = await import('@hocuspocus/server');
    const { WebSocketServer } = await import('ws');
    const hocuspocus = new Hocuspocus({ quiet: true });
    new WebSocketServer({ server: http }).on('connection', (socket, request) => hocuspocus.handleConnection(socket, request));
  },

  async 'y-websocket'(http) {
    const { setupWSConnection } = await import('@y/websocket-server/utils');
    const { WebSocketServer } = await import('ws');
    new WebSocketServer({ server: http }).on('connection', setupWSConnection);
  },
};

const http = createServer();
await SERVERS[process.argv[2]](http);
http.listen(0, '127.0.0.1', () => console.log(`listening 127.0.0.1:${http.address().port}`));
