// Uploads and downloads through a node with the network's TypeScript SDK, unchanged, as a program that uses it would.
//
// The environment names the chain (CHAIN_URL), the node (NODE_URL), an account with funds (ACCOUNT_KEY), the flow
// contract (FLOW_ADDRESS) and a folder for files (WORK_DIR). Prints a line for each scenario that passed, and their number.

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Downloader, MemData, Proof, StorageNode, Uploader, ZgFile, getFlowContract } from '@0gfoundation/0g-ts-sdk';
import { decodeBase64, encodeBase64, ethers } from 'ethers';

const { CHAIN_URL, NODE_URL, ACCOUNT_KEY, FLOW_ADDRESS, WORK_DIR } = process.env;
const SECTOR = 256;
const SEGMENT = 262144;

// The SDK reports its steps on the console; they are shown only when something fails.
const steps = [];
console.log = (...parts) => steps.push(parts.map(String).join(' '));

const provider = new ethers.JsonRpcProvider(CHAIN_URL, undefined, { cacheTimeout: -1 });
const signer = new ethers.Wallet(ACCOUNT_KEY, provider);
const flow = getFlowContract(FLOW_ADDRESS, signer);
const node = new StorageNode(NODE_URL);
const uploader = new Uploader([node], CHAIN_URL, flow);

/** Bytes that look random and are the same in every run. */
function bytesOf(size, seed) {
    const blocks = [];
    for (let i = 0; i * 32 < size; i += 1) {
        blocks.push(createHash('sha256').update(`${seed}/${i}`).digest());
    }
    return new Uint8Array(Buffer.concat(blocks).subarray(0, size));
}

async function uploaded(file, options) {
    const [result, error] = await uploader.uploadFile(file, options);
    assert.equal(error, null);
    return result;
}

/** Downloads into a file, and compares. */
async function assertDownloads(roots, expected, withProof = false, prepare = (downloader) => downloader) {
    const path = join(WORK_DIR, 'download');
    rmSync(path, { force: true });
    const error = await prepare(new Downloader([node])).download(roots, path, withProof);
    assert.equal(error, null);
    assert.ok(Buffer.from(expected).equals(readFileSync(path)), 'the download has other bytes');
}

/** Fetches every segment with its proof, and has the SDK check the proofs. */
async function assertProven(root, seq, expected) {
    const segments = Math.ceil(expected.length / SEGMENT);
    const file = new MemData(expected);
    for (let index = 0; index < segments; index += 1) {
        const byRoot = await node.downloadSegmentWithProof(root, index);
        assert.deepEqual(byRoot, await node.downloadSegmentWithProofByTxSeq(seq, index));
        assert.equal(byRoot.root, root);
        assert.equal(byRoot.fileSize, expected.length);
        const data = decodeBase64(byRoot.data);
        const part = expected.subarray(index * SEGMENT, (index + 1) * SEGMENT);
        assert.equal(data.length, Math.ceil(part.length / SECTOR) * SECTOR);
        assert.ok(Buffer.from(part).equals(Buffer.from(data.subarray(0, part.length))));
        // The tree's leaf is the root of the segment with its padding.
        const [tree] = await file.merkleTree();
        const own = tree.proofAt(index);
        const proof = new Proof(byRoot.proof.lemma, byRoot.proof.path);
        assert.equal(proof.validateHash(root, own.lemma[0], index, file.numSegmentsPadded()), null);
    }
}

async function finalisedBySeq(seq) {
    for (let tries = 0; tries < 600; tries += 1) {
        const info = await node.getFileInfoByTxSeq(seq);
        if (info?.finalized) return info;
        await sleep(100);
    }
    throw new Error(`transaction ${seq} is never finalised`);
}

/** Submits a file to the chain and nothing else; returns its sequence number. */
async function submitted(file, tags = '0x') {
    const [submission, error] = await file.createSubmission(tags, await signer.getAddress());
    assert.equal(error, null);
    const [hash, failure] = await uploader.submitLogEntryNoReceipt(submission);
    assert.equal(failure, null);
    const [seq] = await uploader.processLogs(await provider.waitForTransaction(hash));
    return seq;
}

/** What the SDK itself would send for a segment. */
async function segmentOf(file, index) {
    const [tree] = await file.merkleTree();
    const [, segment, error] = await uploader.getSegment(file, tree, index);
    assert.equal(error, null);
    return segment;
}

const scenarios = [];
const scenario = (name, run) => scenarios.push([name, run]);

scenario('status and shard configuration', async () => {
    const status = await node.getStatus();
    assert.equal(status.networkIdentity.flowAddress, FLOW_ADDRESS.toLowerCase());
    assert.equal(BigInt(status.networkIdentity.chainId), (await provider.getNetwork()).chainId);
    assert.deepEqual(await node.getShardConfig(), { shardId: 0, numShard: 1 });
});

for (const [name, size] of [
    ['1 byte', 1],
    ['256 bytes', 256],
    ['256 KiB less 1 byte', SEGMENT - 1],
    ['256 KiB', SEGMENT],
    ['256 KiB and 1 byte', SEGMENT + 1],
    ['3 MiB', 3 << 20],
]) {
    scenario(`upload of ${name}`, async () => {
        const bytes = bytesOf(size, name);
        const path = join(WORK_DIR, 'upload');
        writeFileSync(path, bytes);
        const file = await ZgFile.fromFilePath(path);
        const { rootHash, txSeq, txHash } = await uploaded(file);
        await file.close();
        assert.match(txHash, /^0x[0-9a-f]{64}$/);
        const info = await node.getFileInfo(rootHash, true);
        assert.deepEqual([info.finalized, info.tx.size, info.tx.seq], [true, size, txSeq]);
        await assertDownloads(rootHash, bytes);
        await assertDownloads(rootHash, bytes, true);
        await assertProven(rootHash, txSeq, bytes);
    });
}

scenario('upload of 20 MiB, 10 segments in a call', async () => {
    const bytes = bytesOf(20 << 20, '20 MiB');
    const { rootHash } = await uploaded(new MemData(bytes), { taskSize: 10 });
    await assertDownloads(rootHash, bytes);
});

scenario('upload of 8 MiB, a call for each segment, all at once', async () => {
    const bytes = bytesOf((8 << 20) - 999, 'at once');
    const { rootHash } = await uploaded(new MemData(bytes));
    const [blob, error] = await new Downloader([node]).downloadToBlob(rootHash, true);
    assert.equal(error, null);
    assert.ok(Buffer.from(bytes).equals(Buffer.from(await blob.arrayBuffer())));
});

scenario('fast upload: segments by root, then the transaction', async () => {
    const bytes = bytesOf(2 * SEGMENT - 300, 'fast');
    const file = new MemData(bytes);
    const segments = [await segmentOf(file, 0), await segmentOf(file, 1)];
    assert.equal(await node.uploadSegments(segments), null);
    const seq = await submitted(file);
    const info = await finalisedBySeq(seq);
    await assertDownloads(info.tx.dataMerkleRoot, bytes);
});

scenario('upload by transaction, segment by segment, with tags', async () => {
    const bytes = bytesOf(3 * SEGMENT + 5, 'by seq');
    const file = new MemData(bytes);
    const seq = await submitted(file, '0x1234');
    while ((await node.getFileInfoByTxSeq(seq)) === null) await sleep(50);
    for (const index of [3, 1, 0, 2]) {
        assert.equal(await node.uploadSegmentByTxSeq(await segmentOf(file, index), seq), null);
    }
    const info = await node.getFileInfoByTxSeq(seq);
    assert.deepEqual([info.finalized, info.uploadedSegNum], [true, 4]);
    await assertDownloads(info.tx.dataMerkleRoot, bytes);
});

scenario('an upload that was broken off goes on', async () => {
    const bytes = bytesOf(4 * SEGMENT, 'broken off');
    const file = new MemData(bytes);
    const seq = await submitted(file);
    while ((await node.getFileInfoByTxSeq(seq)) === null) await sleep(50);
    await node.uploadSegmentByTxSeq(await segmentOf(file, 2), seq);
    const { rootHash, txSeq, txHash } = await uploaded(file, { skipTx: true });
    assert.deepEqual([txSeq, txHash], [seq, '']);
    await assertDownloads(rootHash, bytes);
});

scenario('duplicate upload: nothing is sent, or a transaction that gets the data there is', async () => {
    const bytes = bytesOf(SEGMENT + 70_000, 'twice');
    const first = await uploaded(new MemData(bytes));
    const again = await uploaded(new MemData(bytes));
    assert.deepEqual([again.txHash, again.txSeq], ['', first.txSeq]);
    const other = await uploaded(new MemData(bytes), { skipIfFinalized: false });
    assert.notEqual(other.txHash, '');
    const info = await finalisedBySeq(first.txSeq + 1);
    assert.equal(info.tx.dataMerkleRoot, first.rootHash);
    // By root the node tells the first transaction; its segments and their proofs are the same.
    await assertProven(first.rootHash, first.txSeq + 1, bytes);
});

scenario('fragments', async () => {
    const bytes = bytesOf(1_300_000, 'fragments');
    const [result, error] = await uploader.splitableUpload(new MemData(bytes), { fragmentSize: 512 * 1024 });
    assert.equal(error, null);
    assert.equal(result.rootHashes.length, 3);
    await assertDownloads(result.rootHashes, bytes);
});

scenario('an encrypted file', async () => {
    const bytes = bytesOf(300_000, 'encrypted');
    const key = bytesOf(32, 'key');
    const { rootHash } = await uploaded(new MemData(bytes), { encryption: { type: 'aes256', key } });
    await assertDownloads(rootHash, bytes, false, (downloader) => downloader.withSymmetricKey(key));
});

scenario('proof of a sector in the flow', async () => {
    const bytes = bytesOf(1000, 'sector');
    const { txSeq } = await uploaded(new MemData(bytes));
    const info = await node.getFileInfoByTxSeq(txSeq);
    const root = await flow.getFlowRootByTxSeq(txSeq);
    const proof = await node.getSectorProof(info.tx.startEntryIndex + 1, root);
    assert.equal(proof.lemma[0], ethers.keccak256(bytes.subarray(256, 512)));
    assert.equal(proof.lemma.at(-1), root);
    assert.ok(new Proof(proof.lemma, proof.path).validateRoot());
});

scenario('refusals as the SDK looks for them', async () => {
    const bytes = bytesOf(500, 'refused');
    const file = new MemData(bytes);
    const { txSeq } = await uploaded(file);
    const segment = await segmentOf(file, 0);
    for (const upload of [() => node.uploadSegment(segment), () => node.uploadSegmentsByTxSeq([segment], txSeq)]) {
        const error = await upload().then(() => null, (error) => error);
        assert.ok(uploader.isAlreadyUploadedError(error), `${error?.message} ${error?.data}`);
    }
    const wrong = { ...(await segmentOf(new MemData(bytesOf(600, 'other')), 0)), data: encodeBase64(bytesOf(768, 'no')) };
    const error = await node.uploadSegment(wrong).then(() => null, (error) => error);
    assert.match(error.message, /data hash mismatch/);
});

let passed = 0;
for (const [name, run] of scenarios) {
    steps.length = 0;
    try {
        await run();
    } catch (error) {
        process.stderr.write(`failed: ${name}\n${error?.stack ?? error}\n${steps.slice(-20).join('\n')}\n`);
        process.exit(1);
    }
    passed += 1;
    process.stdout.write(`passed: ${name}\n`);
}
process.stdout.write(`${passed} scenarios passed\n`);
process.exit(0);
