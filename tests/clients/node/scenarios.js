// The kafkajs client's scenarios: what each must show is told in tests/clients/scenarios.py.
'use strict'

const assert = require('node:assert')
const { Kafka, CompressionTypes, ConfigResourceTypes, Partitioners, logLevel } = require('kafkajs')
const { installCodecs } = require('./codecs')
const { runScenarios, ask, eventually, fails, same } = require('./harness')

const RUN = Date.now().toString(36)
const [bootstrap, ...wanted] = process.argv.slice(2)
const connection = (retries) =>
  new Kafka({
    clientId: 'kafkajs',
    brokers: [bootstrap],
    logLevel: logLevel.ERROR,
    retry: { retries, initialRetryTime: 50, maxRetryTime: 1000 },
    logCreator:
      () =>
      ({ log }) =>
        console.error(log.timestamp, log.message, log.error || ''),
  })
const kafka = connection(60) // outlasts a restart of the broker
const impatient = connection(1)
const admin = kafka.admin()
const impatientAdmin = impatient.admin() // for what is refused with an error that kafkajs tries again

async function newTopic(scenario, numPartitions = 1) {
  const topic = `kafkajs-${scenario}-${RUN}`
  await admin.createTopics({ topics: [{ topic, numPartitions, replicationFactor: 1 }], waitForLeaders: true })
  return topic
}

async function withProducer(use, options = {}, from = kafka) {
  const producer = from.producer({ createPartitioner: Partitioners.DefaultPartitioner, ...options })
  await producer.connect()
  try {
    return await use(producer)
  } finally {
    await producer.disconnect()
  }
}

const produce = (topic, messages, options = {}) =>
  withProducer((producer) =>
    producer.send({ topic, messages: messages.map((message) => ({ partition: 0, ...message })), ...options }),
  )

const numbered = (count) => Array.from({ length: count }, (_, i) => ({ key: `k${i}`, value: `v${i}` }))

/** A member of a group that hands each message to `take`; kafkajs has no consumer without a group. */
async function member(groupId, topic, take, options = {}) {
  const consumer = kafka.consumer({
    groupId,
    heartbeatInterval: 200,
    sessionTimeout: 10000,
    maxWaitTimeInMs: 100,
    ...options,
  })
  const state = { consumer, partitions: 0, stop: () => consumer.disconnect() }
  consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => {
    state.partitions = (payload.memberAssignment[topic] || []).length
  })
  consumer.on(consumer.events.REBALANCING, () => {
    state.partitions = 0
  })
  await consumer.connect()
  await consumer.subscribe({ topics: [topic], fromBeginning: true })
  await consumer.run({
    autoCommit: false,
    eachMessage: async ({ partition, message }) => take({ partition, ...message }),
  })
  return state
}

/** `count` messages of partition 0, from the beginning or from an offset. */
async function read(topic, count, from = null) {
  const messages = []
  const reader = await member(`kafkajs-reader-${topic}-${messages.length}-${Math.random()}`, topic, (message) =>
    messages.push(message),
  )
  if (from !== null) reader.consumer.seek({ topic, partition: 0, offset: String(from) })
  await eventually(`${count} messages`, () => messages.length >= count)
  await reader.stop()
  assert.strictEqual(messages.length, count)
  return messages
}

async function codec(name, compression) {
  const topic = await newTopic(`codec-${name}`)
  let state = 7
  const values = Array.from({ length: 500 }, (_, i) => {
    const value = Buffer.alloc(i * 7, 'a')
    for (let j = 0; j < value.length; j += 3) {
      state = (state * 1103515245 + 12345) % 2147483648
      value[j] = (state >> 16) & 255
    }
    return value
  })
  await produce(topic, values.map((value, i) => ({ key: `key-${i}`, value })).slice(0, 250), { compression })
  await produce(topic, values.map((value, i) => ({ key: `key-${i}`, value })).slice(250), { compression })
  const messages = await read(topic, values.length)
  messages.forEach((message, i) => {
    assert.strictEqual(message.offset, String(i))
    same(Buffer.from(`key-${i}`), message.key, `key at ${i}`)
    same(values[i], message.value, `value at ${i}`)
  })
}

async function headers() {
  const topic = await newTopic('headers')
  const sent = { a: ['1', '2'], empty: '', '': 'no name', 'ü€': Buffer.from([0, 255, 128]) }
  await produce(topic, [{ key: 'k', value: 'v', headers: sent }])
  const got = (await read(topic, 1))[0].headers
  assert.deepStrictEqual(Object.keys(got), Object.keys(sent))
  assert.deepStrictEqual(got.a.map(String), ['1', '2'])
  same(Buffer.alloc(0), got.empty, 'empty header')
  same(Buffer.from('no name'), got[''], 'header without a name')
  same(sent['ü€'], got['ü€'], 'binary header')
}

async function nulls() {
  const topic = await newTopic('nulls')
  const empty = Buffer.alloc(0)
  const pairs = [
    [null, Buffer.from('v')],
    [Buffer.from('k'), null],
    [null, null],
    [empty, empty],
    [Buffer.from('k'), Buffer.from('v')],
  ]
  await produce(
    topic,
    pairs.map(([key, value]) => ({ key, value })),
  )
  const messages = await read(topic, pairs.length)
  pairs.forEach(([key, value], i) => {
    same(key, messages[i].key, `key ${i}`)
    same(value, messages[i].value, `value ${i}`)
  })
}

async function rebalance() {
  const topic = await newTopic('rebalance', 4)
  const group = `kafkajs-rebalance-${RUN}`
  const seen = new Map()
  const next = {}
  const take = async ({ partition, offset }) => {
    const id = `${partition}/${offset}`
    seen.set(id, (seen.get(id) || 0) + 1)
    next[partition] = Number(offset) + 1
  }
  const everywhere = (tag) =>
    produce(
      topic,
      Array.from({ length: 80 }, (_, i) => ({ partition: i % 4, value: `${tag}${i}` })),
    )
  const first = await member(group, topic, take)
  await eventually('4 partitions at one member', () => first.partitions === 4)
  const second = await member(group, topic, take)
  await eventually('2 and 2 partitions', () => first.partitions === 2 && second.partitions === 2)
  await everywhere('both')
  await eventually('80 records at two members', () => seen.size === 80)
  await first.consumer.commitOffsets(
    Object.entries(next).map(([partition, offset]) => ({
      topic,
      partition: Number(partition),
      offset: String(offset),
    })),
  )
  await second.stop()
  await eventually('4 partitions again', () => first.partitions === 4)
  await everywhere('one')
  await eventually('160 records in all', () => seen.size === 160)
  await first.stop()
  assert.deepStrictEqual(
    [...seen].filter(([, times]) => times !== 1),
    [],
    'records that came twice',
  )
}

async function commitResume() {
  const topic = await newTopic('commit')
  const group = `kafkajs-commit-${RUN}`
  await produce(topic, numbered(20))
  let messages = []
  let reader = await member(group, topic, (message) => messages.push(message))
  await eventually('10 messages', () => messages.length >= 10)
  await reader.consumer.commitOffsets([{ topic, partition: 0, offset: '10', metadata: 'half way' }])
  await reader.stop()
  const [committed] = await admin.fetchOffsets({ groupId: group, topics: [topic] })
  assert.strictEqual(committed.partitions[0].offset, '10')
  assert.strictEqual(committed.partitions[0].metadata, 'half way')
  messages = []
  reader = await member(group, topic, (message) => messages.push(message))
  await eventually('10 messages', () => messages.length >= 10)
  await reader.stop()
  assert.deepStrictEqual([messages[0].offset, messages.length], ['10', 10])
}

async function seekByTime() {
  const topic = await newTopic('time')
  const start = Date.now() - 3600000
  await produce(
    topic,
    numbered(10).map((message, i) => ({ ...message, timestamp: String(start + i * 1000) })),
  )
  const [found] = await admin.fetchTopicOffsetsByTimestamp(topic, start + 4500)
  assert.strictEqual(found.offset, '5')
  const [after] = await admin.fetchTopicOffsetsByTimestamp(topic, start + 9001)
  assert.strictEqual(after.offset, '10', 'after the last: the end')
  const [first] = await read(topic, 5, found.offset)
  assert.deepStrictEqual([first.offset, first.timestamp], ['5', String(start + 5000)])
}

async function adminTopics() {
  const topic = `kafkajs-admin-${RUN}`
  const wantedTopic = {
    topic,
    numPartitions: 3,
    replicationFactor: 1,
    configEntries: [{ name: 'segment.bytes', value: '2000000' }],
  }
  assert.strictEqual(await admin.createTopics({ topics: [wantedTopic] }), true)
  assert.strictEqual(await admin.createTopics({ topics: [wantedTopic] }), false, 'a second create')
  const partitions = async () => (await admin.fetchTopicMetadata({ topics: [topic] })).topics[0].partitions.length
  assert.strictEqual(await partitions(), 3)
  await admin.createPartitions({ topicPartitions: [{ topic, count: 5 }] })
  await eventually('5 partitions', async () => (await partitions()) === 5)
  await fails('INVALID_PARTITIONS', admin.createPartitions({ topicPartitions: [{ topic, count: 2 }] }))
  assert((await admin.listTopics()).includes(topic))
  assert.strictEqual((await admin.describeCluster()).brokers.length, 1)
  await admin.deleteTopics({ topics: [topic] })
  await eventually('not listed any more', async () => !(await admin.listTopics()).includes(topic))
  await fails('UNKNOWN_TOPIC_OR_PARTITION', impatientAdmin.deleteTopics({ topics: [topic] }))
}

const alter = (name, configEntries) =>
  admin.alterConfigs({ validateOnly: false, resources: [{ type: ConfigResourceTypes.TOPIC, name, configEntries }] })

async function adminConfigs() {
  const topic = await newTopic('configs')
  const becomes = (value, source) =>
    eventually(`retention.ms is ${value}`, async () => {
      const { resources } = await admin.describeConfigs({
        includeSynonyms: false,
        resources: [{ type: ConfigResourceTypes.TOPIC, name: topic, configNames: ['retention.ms'] }],
      })
      const [entry] = resources[0].configEntries
      return entry.configValue === value && entry.configSource === source
    })
  await becomes('604800000', 5)
  await alter(topic, [{ name: 'retention.ms', value: '123456' }])
  await becomes('123456', 1)
  await alter(topic, [])
  await becomes('604800000', 5)
}

async function adminGroups() {
  const topic = await newTopic('groups', 2)
  const group = `kafkajs-groups-${RUN}`
  const working = await member(group, topic, async () => {})
  await eventually('2 partitions', () => working.partitions === 2)
  const describe = async () => (await admin.describeGroups([group])).groups[0]
  assert.deepStrictEqual([(await describe()).state, (await describe()).members.length], ['Stable', 1])
  await working.stop()
  await eventually('group empty', async () => (await describe()).state === 'Empty')
  assert((await admin.listGroups()).groups.some(({ groupId }) => groupId === group))
  await admin.setOffsets({ groupId: group, topic, partitions: [{ partition: 0, offset: '7' }] })
  const [committed] = await admin.fetchOffsets({ groupId: group, topics: [topic] })
  assert.strictEqual(committed.partitions.find(({ partition }) => partition === 0).offset, '7')
  await admin.deleteGroups([group])
  assert.strictEqual((await describe()).state, 'Dead')
}

async function deleteRecords() {
  const topic = await newTopic('delete')
  await produce(topic, numbered(10))
  assert.strictEqual((await admin.fetchTopicOffsets(topic))[0].low, '0') // also makes kafkajs learn the leader, which it needs
  await admin.deleteTopicRecords({ topic, partitions: [{ partition: 0, offset: '4' }] })
  assert.strictEqual((await admin.fetchTopicOffsets(topic))[0].low, '4')
  assert.strictEqual((await read(topic, 6))[0].offset, '4')
}

async function idempotentAcrossKill() {
  const topic = await newTopic('kill')
  const batches = Array.from({ length: 400 }, (_, i) => Array.from({ length: 10 }, (_, j) => `v${i * 10 + j}`))
  await withProducer(
    async (producer) => {
      let done = 0
      const sending = (async () => {
        for (const batch of batches) {
          await producer.send({ topic, acks: -1, messages: batch.map((value) => ({ partition: 0, value })) })
          done += 1
        }
      })()
      await Promise.race([sending, eventually('a first part sent', () => done > batches.length / 4)])
      await Promise.all([ask('kill-restart'), sending])
    },
    { idempotent: true, maxInFlightRequests: 1 },
  )
  const messages = await read(topic, 4000)
  batches.flat().forEach((value, i) => assert.strictEqual(messages[i].value.toString(), value, `value at ${i}`))
}

async function unknownTopic() {
  const topic = `kafkajs-nowhere-${RUN}`
  await fails('UNKNOWN_TOPIC_OR_PARTITION', impatientAdmin.fetchTopicMetadata({ topics: [topic] }))
  await fails(
    'UNKNOWN_TOPIC_OR_PARTITION',
    withProducer((producer) => producer.send({ topic, messages: [{ value: 'v' }] }), {}, impatient),
  )
  assert(!(await admin.listTopics()).includes(topic), 'the topic was created')
}

async function tooLarge() {
  const topic = await newTopic('large')
  await fails('MESSAGE_TOO_LARGE', produce(topic, [{ value: Buffer.alloc(2000000) }]))
  const [answer] = await produce(topic, [{ value: 'small' }])
  assert.strictEqual(answer.baseOffset, '0')
}

async function offsetOutOfRange() {
  const topic = await newTopic('range')
  await produce(topic, numbered(3))
  // kafkajs goes back to the first offset when the broker refuses one, and only then.
  assert.strictEqual((await read(topic, 3, 1000))[0].offset, '0')
  assert.strictEqual((await read(topic, 2, 1))[0].offset, '1')
}

async function badConfig() {
  const topic = await newTopic('bad')
  const create = (wantedTopic) =>
    admin.createTopics({
      topics: [{ topic: `kafkajs-bad2-${RUN}`, numPartitions: 1, replicationFactor: 1, ...wantedTopic }],
    })
  await fails('INVALID_CONFIG', create({ configEntries: [{ name: 'no.such.key', value: '1' }] }))
  await fails('INVALID_CONFIG', create({ configEntries: [{ name: 'retention.ms', value: 'soon' }] }))
  await fails('INVALID_REPLICATION_FACTOR', create({ replicationFactor: 3 }))
  await fails('INVALID_PARTITIONS', create({ numPartitions: 0 }))
  await fails('INVALID_TOPIC_EXCEPTION', create({ topic: 'no spaces please' }))
  await fails('INVALID_CONFIG', alter(topic, [{ name: 'segment.bytes', value: 'many' }]))
  await fails('INVALID_CONFIG', alter(topic, [{ name: 'no.such.key', value: '1' }]))
  assert(!(await admin.listTopics()).includes(`kafkajs-bad2-${RUN}`), 'a refused topic was created')
}

async function main() {
  await installCodecs()
  await Promise.all([admin.connect(), impatientAdmin.connect()])
  const codecs = {
    none: CompressionTypes.None,
    gzip: CompressionTypes.GZIP,
    snappy: CompressionTypes.Snappy,
    lz4: CompressionTypes.LZ4,
    zstd: CompressionTypes.ZSTD,
  }
  await runScenarios(
    {
      ...Object.fromEntries(Object.entries(codecs).map(([name, type]) => [`codec-${name}`, () => codec(name, type)])),
      headers,
      nulls,
      rebalance,
      'commit-resume': commitResume,
      'seek-by-time': seekByTime,
      'admin-topics': adminTopics,
      'admin-configs': adminConfigs,
      'admin-groups': adminGroups,
      'delete-records': deleteRecords,
      'idempotent-across-kill': idempotentAcrossKill,
      'error-unknown-topic': unknownTopic,
      'error-too-large': tooLarge,
      'error-offset-out-of-range': offsetOutOfRange,
      'error-bad-config': badConfig,
    },
    wanted,
  )
  process.exit(0)
}

main()
