/** The global `Datasole` of pages without modules. */
export { DatasoleClient, DatasoleError, ErrorCode } from './client.js';
