// The baseline: a worker that hands texts of its own socket to the page in batches, and nothing else. An empty message
// ends a batch, so that whoever sends decides where batches end and when they come.

let texts = [];
const socket = new WebSocket(`ws://${location.host}/texts`);
socket.onopen = () => postMessage('[]');
socket.onmessage = ({ data }) => {
  if (data) return void texts.push(data);
  const batch = `[${texts.join(',')}]`;
  texts = [];
  postMessage(batch);
};
