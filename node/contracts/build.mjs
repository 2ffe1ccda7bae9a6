// Compiles src/ and keeps the results in artifacts/, one JSON file per contract.
//
//   node build.mjs build    writes the artefacts
//   node build.mjs check    compiles again and fails if any differs from the one in artifacts/
//
// The compiler is solc-js, whose output does not depend on the machine.
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, relative, sep } from "node:path";
import { fileURLToPath } from "node:url";
import solc from "solc";

const root = dirname(fileURLToPath(import.meta.url));
const artifactsDir = join(root, "artifacts");
const MAX_CODE_BYTES = 24_576; // EIP-170

const CONTRACTS = {
  "src/Flow.sol": "FixedPriceFlow",
  "src/DigestHistory.sol": "DigestHistory",
  "src/FixedPriceMarket.sol": "FixedPriceMarket",
  "src/ChunkLinearReward.sol": "ChunkLinearReward",
  "src/PoraMine.sol": "PoraMine",
  "src/test/PoraHarness.sol": "PoraHarness",
};

const SETTINGS = {
  viaIR: true,
  optimizer: { enabled: true, runs: 10_000 },
  evmVersion: "cancun",
  // No hash of the metadata: a changed comment must not change the code.
  metadata: { appendCBOR: false, bytecodeHash: "none" },
  outputSelection: { "*": { "*": ["abi", "evm.bytecode.object", "evm.deployedBytecode.object"] } },
};

function sourceFiles(directory) {
  return readdirSync(directory, { withFileTypes: true })
    .flatMap((entry) => {
      const path = join(directory, entry.name);
      if (entry.isDirectory()) return sourceFiles(path);
      return path.endsWith(".sol") ? [path] : [];
    })
    .sort();
}

// Name in the compiler's terms -> content, for all files under src/.
function readSources() {
  const sources = {};
  for (const path of sourceFiles(join(root, "src"))) {
    const name = relative(root, path).split(sep).join("/");
    sources[name] = { content: readFileSync(path, "utf8") };
  }
  return sources;
}

// SHA-256 over compiler, settings, library versions and sources: what an artefact was made from.
function hashOf(sources) {
  const { dependencies } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  const hash = createHash("sha256");
  hash.update(JSON.stringify([solc.version(), SETTINGS, dependencies["@openzeppelin/contracts"], sources]));
  return hash.digest("hex");
}

function compile() {
  const sources = readSources();
  const findImport = (path) => {
    try {
      return { contents: readFileSync(join(root, "node_modules", path), "utf8") };
    } catch (error) {
      return { error: error.message };
    }
  };
  const input = { language: "Solidity", sources, settings: SETTINGS };
  const output = JSON.parse(solc.compile(JSON.stringify(input), { import: findImport }));
  const messages = output.errors ?? [];
  for (const message of messages) console.error(message.formattedMessage);
  if (messages.length > 0) throw new Error(`the compiler has ${messages.length} complaints; none is allowed`);

  const sourceHash = hashOf(sources);
  const artifacts = {};
  for (const [file, name] of Object.entries(CONTRACTS)) {
    const { abi, evm } = output.contracts[file][name];
    const size = evm.deployedBytecode.object.length / 2;
    if (size > MAX_CODE_BYTES) throw new Error(`${name} has ${size} bytes of code, more than ${MAX_CODE_BYTES}`);
    console.error(`${name}: ${size} bytes of code`);
    artifacts[`${name}.json`] = `${JSON.stringify({ abi, bytecode: `0x${evm.bytecode.object}`, sourceHash })}\n`;
  }
  return artifacts;
}

function build() {
  const artifacts = compile();
  rmSync(artifactsDir, { recursive: true, force: true });
  mkdirSync(artifactsDir);
  for (const [name, text] of Object.entries(artifacts)) writeFileSync(join(artifactsDir, name), text);
}

function check() {
  const artifacts = compile();
  const committed = new Set(readdirSync(artifactsDir));
  const faults = [];
  for (const [name, text] of Object.entries(artifacts)) {
    if (!committed.delete(name)) faults.push(`${name} is missing`);
    else if (readFileSync(join(artifactsDir, name), "utf8") !== text) faults.push(`${name} is not what its sources give`);
  }
  for (const name of committed) faults.push(`${name} belongs to no contract`);
  if (faults.length > 0) throw new Error(`${faults.join("; ")}. Run: scripts/contracts build`);
}

const commands = { build, check };
const command = commands[process.argv[2]];
if (!command || process.argv.length > 3) {
  console.error("usage: node build.mjs build|check");
  process.exit(2);
}
try {
  command();
} catch (error) {
  console.error(`contracts: ${error.message}`);
  process.exit(1);
}
