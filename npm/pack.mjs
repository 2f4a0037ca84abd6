// Packs the tarballs that are published: the package, with what `npm/build.mjs` has made, and the program `datasole` for the
// platform it was built for, each in a package of its own. Arguments: the program, Rust's
// name of that platform, and the folder for the tarballs, whose paths are printed.
import { execFileSync } from 'node:child_process';
import { chmod, cp, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The platforms for which the program is built, and Rust's names of them. */
const PLATFORMS = {
  'darwin-arm64': 'aarch64-apple-darwin',
  'darwin-x64': 'x86_64-apple-darwin',
  'linux-arm64-gnu': 'aarch64-unknown-linux-gnu',
  'linux-arm64-musl': 'aarch64-unknown-linux-musl',
  'linux-x64-gnu': 'x86_64-unknown-linux-gnu',
  'linux-x64-musl': 'x86_64-unknown-linux-musl',
  'win32-x64-msvc': 'x86_64-pc-windows-msvc',
};
const LICENCES = 'LICENSE-*';
const LIBC = { gnu: ['glibc'], musl: ['musl'] };

const [program, target, folder] = process.argv.slice(2);
const npm = fileURLToPath(new URL('.', import.meta.url));
const out = resolve(folder);
const platform = Object.keys(PLATFORMS).find((name) => PLATFORMS[name] === target);
if (!platform) throw new Error(`there is no package for ${target}: ${Object.values(PLATFORMS).join(', ')}`);

const { devDependencies, scripts, ...manifest } = JSON.parse(await readFile(join(npm, 'package.json'), 'utf8'));
const { version, license, repository } = manifest;
const nameOf = (platform) => `@datasole/cli-${platform}`;

await rm(out, { recursive: true, force: true });
const main = await stage('datasole', {
  ...manifest,
  files: [...manifest.files, LICENCES],
  optionalDependencies: Object.fromEntries(Object.keys(PLATFORMS).map((platform) => [nameOf(platform), version])),
});
for (const name of ['README.md', 'bin', 'dist']) await cp(join(npm, name), join(main, name), { recursive: true });

const [os, cpu, libc] = platform.split('-');
const cli = await stage(`cli-${platform}`, {
  name: nameOf(platform),
  version,
  description: `The program datasole for ${platform}; installed by the package datasole.`,
  license,
  repository,
  type: 'module',
  os: [os],
  cpu: [cpu],
  ...(LIBC[libc] && { libc: LIBC[libc] }),
  files: ['bin', LICENCES],
  preferUnplugged: true,
});
await mkdir(join(cli, 'bin'));
const copy = join(cli, 'bin', basename(program));
await cp(program, copy);
await chmod(copy, 0o755);

for (const stage of [main, cli]) pack(stage);
const others = Object.keys(PLATFORMS).filter((name) => name !== platform);
console.error(`other platforms, each to be packed where it is built: ${others.map((name) => `${name} (${PLATFORMS[name]})`).join(', ')}`);

/** A folder with a manifest and the licences. */
async function stage(name, manifest) {
  const folder = join(out, name);
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, 'package.json'), JSON.stringify(manifest, null, 2));
  for (const name of ['LICENSE-APACHE', 'LICENSE-MIT']) await cp(join(npm, '..', name), join(folder, name));
  return folder;
}

function pack(folder) {
  // Windows runs scripts by a shell only.
  const shell = process.platform === 'win32';
  const made = execFileSync('npm', ['pack', '--silent', '--pack-destination', out], { cwd: folder, encoding: 'utf8', shell });
  console.log(join(out, made.trim()));
}
