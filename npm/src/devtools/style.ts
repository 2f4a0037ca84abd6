/** The looks of the panel: light and dark from one set of colours. */
export const STYLE = `
:host {
  color-scheme: light dark;
  --ground: light-dark(#fffefb, #181b21);
  --sunken: light-dark(#f3f0e9, #12151a);
  --line: light-dark(#d9d3c6, #343a45);
  --edge: light-dark(#8b8577, #6c7583);
  --ink: light-dark(#1d1c1a, #ecebe7);
  --soft: light-dark(#5c5850, #a9aeb7);
  --sun: light-dark(#8a5200, #f7be6c);
  --wash: light-dark(#fdeccb, #4a3514);
  --good: light-dark(#1b774a, #5fd39b);
  --bad: light-dark(#b4281d, #ff8f84);
  --mono: ui-monospace, "SF Mono", "Cascadia Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
* { box-sizing: border-box; }
[hidden] { display: none !important; }
.panel {
  position: fixed; inset: auto 0 0 0; z-index: 2147483000;
  display: flex; flex-direction: column;
  height: min(46vh, 420px);
  border-top: 1px solid var(--edge);
  background: var(--ground); color: var(--ink);
  font: 13px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
  font-variant-numeric: tabular-nums;
  box-shadow: 0 -6px 24px #0003;
}
.folded { height: auto; }
.folded > :not(header) { display: none; }
p, ol, ul { margin: 0; padding: 0; list-style: none; }
header { display: flex; flex-wrap: wrap; align-items: center; gap: 6px; padding: 6px 12px; }
.state { display: flex; align-items: center; gap: 8px; margin-right: auto; font-weight: 600; }
.state::before, .timeline li::before {
  content: ''; flex: none; width: 9px; height: 9px; border-radius: 50%; background: var(--sun);
}
[data-state='connected']::before { background: var(--good) !important; }
[data-state='disconnected']::before { background: var(--bad) !important; }
.tools { display: flex; gap: 6px; }
button, select, input {
  min-height: 32px; padding: 0 10px;
  border: 1px solid var(--edge); border-radius: 7px;
  background: transparent; color: inherit; font: inherit;
}
select, input { background: var(--ground); }
::placeholder { color: var(--soft); opacity: 1; }
button { font-weight: 500; white-space: nowrap; cursor: pointer; }
button:hover { background: var(--sunken); }
button[aria-pressed='true'] { border-color: var(--sun); background: var(--wash); }
:focus-visible { outline: 2px solid var(--sun); outline-offset: 1px; }
.tabs { display: flex; gap: 2px; padding: 0 10px; border-bottom: 1px solid var(--line); overflow-x: auto; }
.tabs button { border: 0; border-bottom: 2px solid transparent; border-radius: 0; color: var(--soft); }
.tabs [aria-selected='true'] { border-color: var(--sun); color: var(--ink); }
.tabs [data-count]:not([data-count=''])::after { content: attr(data-count); margin-left: 6px; padding: 1px 6px; border-radius: 8px; background: var(--wash); color: var(--ink); font-size: 11px; }
.note { padding: 6px 12px; border-bottom: 1px solid var(--line); background: var(--sunken); overflow-wrap: anywhere; }
.note:empty { display: none; }
header, .tabs, .note { flex: none; }
.view { flex: 1; min-height: 0; overflow: auto; padding: 8px 12px 12px; }
.empty, .facts { padding: 4px 0; color: var(--soft); }
time { flex: none; color: var(--soft); font: 12px var(--mono); }
.timeline li { display: flex; align-items: baseline; flex-wrap: wrap; gap: 2px 10px; padding: 3px 0; }
.timeline li::before { align-self: center; }
.timeline span { color: var(--soft); overflow-wrap: anywhere; }
.split { display: grid; grid-template-columns: minmax(240px, 2fr) 3fr; gap: 12px; height: 100%; min-height: 0; }
.streams, .value { overflow: auto; min-height: 0; }
.streams { display: flex; flex-direction: column; gap: 4px; }
.stream { display: grid; flex: none; justify-items: start; gap: 1px; padding: 6px 10px; text-align: left; white-space: normal; border-color: var(--line); }
.stream span { color: var(--soft); font-weight: 400; font-size: 12px; }
.stream[aria-pressed='true'] span { color: inherit; }
.stream em { color: var(--bad); font-style: normal; }
.value { padding: 6px 10px; border: 1px solid var(--line); border-radius: 7px; background: var(--sunken); }
.tree { font: 12px/1.6 var(--mono); overflow-wrap: anywhere; }
.tree details > :not(summary) { margin-left: 16px; }
summary { cursor: pointer; }
.tree .name, .size { color: var(--soft); }
.tree .string { color: var(--good); }
.changed { animation: flash 1.2s; }
@keyframes flash { from { background: var(--wash); } }
.bar { display: flex; gap: 6px; margin-bottom: 6px; }
.bar input { flex: 1; min-width: 0; }
.log li { border-bottom: 1px solid var(--line); }
.log summary { display: flex; align-items: baseline; gap: 8px; padding: 3px 0; list-style: none; }
.log summary::-webkit-details-marker { display: none; }
.log .way { flex: none; width: 1em; color: var(--sun); font-weight: 700; }
.log .came .way { color: var(--good); }
.log .name { flex: none; }
.log code { min-width: 0; overflow: hidden; color: var(--soft); font: 12px var(--mono); text-overflow: ellipsis; white-space: nowrap; }
.log pre { margin: 0 0 8px; padding: 8px; border-radius: 7px; background: var(--sunken); font: 12px/1.5 var(--mono); white-space: pre-wrap; overflow-wrap: anywhere; }
.pending li { display: flex; gap: 10px; padding: 4px 0; border-bottom: 1px solid var(--line); }
.pending .kind { width: 5em; color: var(--soft); }
.pending b { flex: 1; min-width: 0; overflow-wrap: anywhere; }
@media (max-width: 620px) {
  .panel { height: min(62vh, 520px); }
  button, select, input { min-height: 44px; min-width: 44px; }
  .tools { order: 1; flex: 100%; }
  .tools button { flex: 1 auto; padding: 0 4px; }
  .tabs button { flex: 1; padding: 0 6px; }
  .split { grid-template-columns: minmax(0, 1fr); grid-template-rows: minmax(0, 2fr) minmax(0, 3fr); }
  .log summary { flex-wrap: wrap; min-height: 44px; align-content: center; gap: 0 8px; }
  .log code { flex: 100%; }
  summary { min-height: 28px; }
}
@media (prefers-reduced-motion: reduce) { .changed { animation: none; background: var(--wash); } }
`;
