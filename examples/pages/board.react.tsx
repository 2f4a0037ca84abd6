// A state and a call in React, typed by a contract in Rust: `contract.ts` is written by `datasole types`.
import { DatasoleProvider, useLiveState, useMutation } from 'datasole/react';
import './contract.js';

export function Board() {
  const { status, data: board, stale } = useLiveState('board');
  const vote = useMutation('vote');
  if (status !== 'ready') return <p>{status === 'loading' ? '…' : 'There is no board.'}</p>;
  return (
    <section style={{ opacity: stale ? 0.5 : 1 }}>
      <h1>{board.title}</h1>
      <button disabled={vote.pending} onClick={() => vote.run({ by: 1 })}>
        {board.votes} votes
      </button>
      {vote.error && <p role="alert">{vote.error.message}</p>}
    </section>
  );
}

export function App() {
  return (
    <DatasoleProvider options={{ url: location.origin }}>
      <Board />
    </DatasoleProvider>
  );
}
