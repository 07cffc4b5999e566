// The franz-go client's scenarios: what each must show is told in tests/clients/scenarios.py.
package main

import (
	"context"
	"fmt"
	"math/rand"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

var (
	run   = strconv.FormatInt(time.Now().UnixMilli(), 36)
	seed  string
	admin *kadm.Client
)

func main() {
	seed = os.Args[1]
	admin = kadm.NewClient(client())
	codecs := map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
		"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	}
	var all []scenario
	for _, name := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		all = append(all, scenario{"codec-" + name, func() { codec(name, codecs[name]) }})
	}
	all = append(all, []scenario{
		{"headers", headers}, {"nulls", nulls}, {"rebalance", rebalance}, {"commit-resume", commitResume},
		{"seek-by-time", seekByTime}, {"admin-topics", adminTopics}, {"admin-configs", adminConfigs},
		{"admin-groups", adminGroups}, {"delete-records", deleteRecords}, {"idempotent-across-kill", idempotentAcrossKill},
		{"error-unknown-topic", unknownTopic}, {"error-too-large", tooLarge},
		{"error-offset-out-of-range", offsetOutOfRange}, {"error-bad-config", badConfig},
	}...)
	runScenarios(all, os.Args[2:])
}

func limit() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), 60*time.Second)
}

func client(options ...kgo.Opt) *kgo.Client {
	made, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(seed), kgo.RecordPartitioner(kgo.ManualPartitioner())}, options...)...)
	ok(err)
	return made
}

func newTopic(name string, partitions int32) string {
	ctx, cancel := limit()
	defer cancel()
	topic := "franz-" + name + "-" + run
	_, err := admin.CreateTopic(ctx, partitions, 1, nil, topic)
	ok(err)
	return topic
}

func produce(records []*kgo.Record, options ...kgo.Opt) error {
	ctx, cancel := limit()
	defer cancel()
	producer := client(options...)
	defer producer.Close()
	return producer.ProduceSync(ctx, records...).FirstErr()
}

func numbered(topic string, count int) (records []*kgo.Record) {
	for i := range count {
		records = append(records, &kgo.Record{Topic: topic, Key: []byte(fmt.Sprint("k", i)), Value: []byte(fmt.Sprint("v", i))})
	}
	return records
}

func poll(consumer *kgo.Client, count int) (records []*kgo.Record) {
	ctx, cancel := limit()
	defer cancel()
	for len(records) < count {
		fetches := consumer.PollFetches(ctx)
		ok(fetches.Err())
		records = append(records, fetches.Records()...)
	}
	equal(count, len(records), "records")
	return records
}

func at(topic string, offset kgo.Offset) kgo.Opt {
	return kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: offset}})
}

// read gives all records of partition 0, from the beginning.
func read(topic string, count int) []*kgo.Record {
	consumer := client(at(topic, kgo.NewOffset().AtStart()))
	defer consumer.Close()
	return poll(consumer, count)
}

func codec(name string, codec kgo.CompressionCodec) {
	topic := newTopic("codec-"+name, 1)
	random := rand.New(rand.NewSource(7))
	var records []*kgo.Record
	for i := range 500 {
		value := make([]byte, i*7)
		for j := range value {
			value[j] = 'a'
			if j%3 == 0 {
				value[j] = byte(random.Intn(256))
			}
		}
		records = append(records, &kgo.Record{Topic: topic, Key: []byte(fmt.Sprint("key-", i)), Value: value})
	}
	ok(produce(records, kgo.ProducerBatchCompression(codec), kgo.ProducerLinger(20*time.Millisecond)))
	for i, got := range read(topic, len(records)) {
		equal(int64(i), got.Offset, "offset")
		same(records[i].Key, got.Key, "key")
		same(records[i].Value, got.Value, "value")
	}
}

func headers() {
	topic := newTopic("headers", 1)
	sent := []kgo.RecordHeader{
		{Key: "a", Value: []byte("1")}, {Key: "a", Value: []byte("2")}, {Key: "empty", Value: []byte{}}, {Key: "null"},
		{Key: "", Value: []byte("no name")}, {Key: "\u00fc\u20ac", Value: []byte{0, 255, 128}},
	}
	ok(produce([]*kgo.Record{{Topic: topic, Key: []byte("k"), Value: []byte("v"), Headers: sent}}))
	got := read(topic, 1)[0].Headers
	equal(len(sent), len(got), "headers")
	for i := range sent {
		equal(sent[i].Key, got[i].Key, "name of a header")
		same(sent[i].Value, got[i].Value, "value of header "+sent[i].Key)
	}
}

func nulls() {
	topic := newTopic("nulls", 1)
	pairs := [][2][]byte{{nil, []byte("v")}, {[]byte("k"), nil}, {nil, nil}, {{}, {}}, {[]byte("k"), []byte("v")}}
	var records []*kgo.Record
	for _, pair := range pairs {
		records = append(records, &kgo.Record{Topic: topic, Key: pair[0], Value: pair[1]})
	}
	ok(produce(records))
	for i, got := range read(topic, len(pairs)) {
		same(pairs[i][0], got.Key, fmt.Sprint("key ", i))
		same(pairs[i][1], got.Value, fmt.Sprint("value ", i))
	}
}

func commitResume() {
	ctx, cancel := limit()
	defer cancel()
	topic, group := newTopic("commit", 1), "franz-commit-"+run
	ok(produce(numbered(topic, 20)))
	options := []kgo.Opt{kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())}
	first := client(options...)
	var half []*kgo.Record
	for len(half) < 10 {
		fetches := first.PollRecords(ctx, 10-len(half))
		ok(fetches.Err())
		half = append(half, fetches.Records()...)
	}
	ok(first.CommitRecords(ctx, half...))
	first.Close()
	committed, err := admin.FetchOffsets(ctx, group)
	ok(err)
	offset, _ := committed.Lookup(topic, 0)
	equal(int64(10), offset.At, "committed offset")
	second := client(options...)
	defer second.Close()
	equal(int64(10), poll(second, 10)[0].Offset, "first offset after the resume")
}

func seekByTime() {
	ctx, cancel := limit()
	defer cancel()
	topic := newTopic("time", 1)
	start := time.Now().Add(-time.Hour).Truncate(time.Millisecond)
	records := numbered(topic, 10)
	for i, record := range records {
		record.Timestamp = start.Add(time.Duration(i) * time.Second)
	}
	ok(produce(records))
	found, err := admin.ListOffsetsAfterMilli(ctx, start.Add(4500*time.Millisecond).UnixMilli(), topic)
	ok(err)
	listed, _ := found.Lookup(topic, 0)
	equal(int64(5), listed.Offset, "offset by time")
	equal(start.Add(5*time.Second).UnixMilli(), listed.Timestamp, "its timestamp")
	after, err := admin.ListOffsetsAfterMilli(ctx, start.Add(9001*time.Millisecond).UnixMilli(), topic)
	ok(err)
	listed, _ = after.Lookup(topic, 0)
	equal(int64(10), listed.Offset, "after the last: the end")
	largest, err := admin.ListMaxTimestampOffsets(ctx, topic)
	ok(err)
	listed, _ = largest.Lookup(topic, 0)
	equal(int64(9), listed.Offset, "offset of the largest timestamp")
	consumer := client(at(topic, kgo.NewOffset().AfterMilli(start.Add(4500*time.Millisecond).UnixMilli())))
	defer consumer.Close()
	equal(int64(5), poll(consumer, 5)[0].Offset, "first offset read")
}

func idempotentAcrossKill() {
	ctx, cancel := context.WithTimeout(context.Background(), 120*time.Second)
	defer cancel()
	const count = 6000
	topic := newTopic("kill", 1)
	producer := client(kgo.ProducerBatchMaxBytes(1000), kgo.ProducerLinger(time.Millisecond), kgo.RequiredAcks(kgo.AllISRAcks()))
	defer producer.Close()
	records := numbered(topic, count)
	var failed atomic.Value
	var sent, acked atomic.Int64
	go func() {
		for i, record := range records {
			producer.Produce(ctx, record, func(_ *kgo.Record, err error) {
				if err != nil {
					failed.Store(err)
				}
				acked.Add(1)
			})
			sent.Add(1)
			if i%10 == 0 {
				time.Sleep(time.Millisecond)
			}
		}
	}()
	eventually("a first part sent", func() bool { return sent.Load() > count/4 })
	ask("kill-restart")
	eventually("all records answered", func() bool { return acked.Load() == count })
	check(failed.Load() == nil, "a record was refused: %v", failed.Load())
	for i, got := range read(topic, count) {
		if records[i].Offset != -1 { // a duplicate, of which the broker no longer knew the offset
			equal(int64(i), records[i].Offset, "acknowledged offset")
		}
		same(records[i].Value, got.Value, fmt.Sprint("value at ", i))
	}
}

func tooLarge() {
	topic := newTopic("large", 1)
	large := &kgo.Record{Topic: topic, Value: make([]byte, 2_000_000)}
	options := []kgo.Opt{kgo.ProducerBatchMaxBytes(5_000_000), kgo.ProducerBatchCompression(kgo.NoCompression())}
	fails(kerr.MessageTooLarge, produce([]*kgo.Record{large}, options...))
	small := &kgo.Record{Topic: topic, Value: []byte("small")}
	ok(produce([]*kgo.Record{small}))
	equal(int64(0), small.Offset, "offset of the next one")
}

func offsetOutOfRange() {
	ctx, cancel := limit()
	defer cancel()
	topic := newTopic("range", 1)
	ok(produce(numbered(topic, 3)))
	consumer := client(at(topic, kgo.NewOffset().At(1000)), kgo.ConsumeResetOffset(kgo.NoResetOffset()))
	fails(kerr.OffsetOutOfRange, consumer.PollFetches(ctx).Err())
	consumer.Close()
	consumer = client(at(topic, kgo.NewOffset().At(1)), kgo.ConsumeResetOffset(kgo.NoResetOffset()))
	defer consumer.Close()
	equal(int64(1), poll(consumer, 2)[0].Offset, "offset after a good seek")
}
