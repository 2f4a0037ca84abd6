// A state and a call in Vue, typed by a contract in Rust: `contract.ts` is written by `datasole types`.
import { DatasoleClient } from 'datasole/client';
import { datasole, useLiveState, useMutation } from 'datasole/vue';
import { createApp, defineComponent, h } from 'vue';
import './contract.js';

export const Board = defineComponent(() => {
  const { status, data: board, stale } = useLiveState('board');
  const vote = useMutation('vote');
  return () =>
    status.value === 'ready'
      ? h('section', { style: { opacity: stale.value ? 0.5 : 1 } }, [
          h('h1', board.value?.title),
          h('button', { disabled: vote.pending.value, onClick: () => vote.run({ by: 1 }) }, `${board.value?.votes} votes`),
          vote.error.value && h('p', { role: 'alert' }, vote.error.value.message),
        ])
      : h('p', status.value === 'loading' ? '…' : 'There is no board.');
});

export const app = () => createApp(Board).use(datasole(new DatasoleClient({ url: location.origin })));
