/** The core's question for a token. */
import type { Link } from './link.js';
import type { DatasoleClientOptions } from './options.js';

/** Answers it with what the application says. */
export async function answerToken(link: Link, options: DatasoleClientOptions): Promise<void> {
  try {
    link.send({ t: 'token', token: await options.getToken?.() });
  } catch (error) {
    link.send({ t: 'token', error: String((error as Error)?.message ?? error) });
  }
}
