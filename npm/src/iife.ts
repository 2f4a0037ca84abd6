/** The global `Datasole` of pages without modules. Set here: esbuild's way to do it costs 170 bytes of gzip. */
import { DatasoleClient, DatasoleError, ErrorCode } from './client.js';

Object.assign(globalThis, { Datasole: { DatasoleClient, DatasoleError, ErrorCode } });
