import { DatasoleClient } from '/__ds/client.mjs';

window.DatasoleClient = DatasoleClient;
