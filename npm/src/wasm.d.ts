/** As workerd, and bundlers for it, import it. */
declare module '*.wasm' {
  const module: WebAssembly.Module;
  export default module;
}
