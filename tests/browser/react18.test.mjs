// The hooks of `datasole/react` in React 18, which the peer range names, too: all specs of React 19.

process.env.REACT = '18';
await import('./react.test.mjs');
