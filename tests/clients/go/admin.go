// The scenarios of administration and of groups.
package main

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

func member(group, topic string) *kgo.Client {
	return client(kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit(), kgo.Balancers(kgo.RangeBalancer()),
		kgo.HeartbeatInterval(200*time.Millisecond), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
}

type sightings map[string]bool

func (seen sightings) drain(member *kgo.Client) {
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	for _, record := range member.PollFetches(ctx).Records() {
		id := fmt.Sprintf("%d/%d", record.Partition, record.Offset)
		check(!seen[id], "record %s came twice", id)
		seen[id] = true
	}
}

// assigned gives how many partitions each member of a stable group has, as the broker says; empty while it is not stable.
func assigned(group string) (counts []int) {
	ctx, cancel := limit()
	defer cancel()
	described, err := admin.DescribeGroups(ctx, group)
	if err != nil || described[group].State != "Stable" { // the coordinator may still be on its way
		return nil
	}
	for _, one := range described[group].Members {
		assignment, _ := one.Assigned.AsConsumer()
		count := 0
		for _, topic := range assignment.Topics {
			count += len(topic.Partitions)
		}
		counts = append(counts, count)
	}
	return counts
}

func settle(seen sightings, group string, members []*kgo.Client, sizes ...int) {
	eventually(fmt.Sprint("assignment ", sizes), func() bool {
		for _, one := range members {
			seen.drain(one)
		}
		return fmt.Sprint(assigned(group)) == fmt.Sprint(sizes)
	})
}

func everywhere(topic, tag string) {
	var records []*kgo.Record
	for i := range 80 {
		records = append(records, &kgo.Record{Topic: topic, Partition: int32(i % 4), Value: []byte(fmt.Sprint(tag, i))})
	}
	ok(produce(records))
}

func rebalance() {
	topic, group := newTopic("rebalance", 4), "franz-rebalance-"+run
	ctx, cancel := limit()
	defer cancel()
	seen := sightings{}
	first := member(group, topic)
	defer first.Close()
	settle(seen, group, []*kgo.Client{first}, 4)
	second := member(group, topic)
	settle(seen, group, []*kgo.Client{first, second}, 2, 2)
	everywhere(topic, "both")
	eventually("80 records at two members", func() bool {
		seen.drain(first)
		seen.drain(second)
		return len(seen) == 80
	})
	ok(first.CommitUncommittedOffsets(ctx))
	ok(second.CommitUncommittedOffsets(ctx))
	second.Close()
	settle(seen, group, []*kgo.Client{first}, 4)
	everywhere(topic, "one")
	eventually("160 records in all", func() bool {
		seen.drain(first)
		return len(seen) == 160
	})
}

func adminTopics() {
	ctx, cancel := limit()
	defer cancel()
	topic := "franz-admin-" + run
	created, err := admin.CreateTopic(ctx, 3, 1, map[string]*string{"segment.bytes": kadm.StringPtr("2000000")}, topic)
	ok(err)
	equal(int32(3), created.NumPartitions, "partitions of the new topic")
	_, err = admin.CreateTopic(ctx, 3, 1, nil, topic)
	fails(kerr.TopicAlreadyExists, err)
	listed, err := admin.ListTopics(ctx, topic)
	ok(err)
	equal(3, len(listed[topic].Partitions), "partitions")
	equal(created.ID, listed[topic].ID, "topic id")
	grown, err := admin.UpdatePartitions(ctx, 5, topic)
	ok(err)
	ok(grown[topic].Err)
	eventually("5 partitions", func() bool {
		listed, err := admin.ListTopics(ctx)
		ok(err)
		return len(listed[topic].Partitions) == 5
	})
	grown, err = admin.UpdatePartitions(ctx, 2, topic)
	ok(err)
	fails(kerr.InvalidPartitions, grown[topic].Err)
	_, err = admin.DeleteTopic(ctx, topic)
	ok(err)
	eventually("not listed any more", func() bool {
		listed, err := admin.ListTopics(ctx)
		ok(err)
		return !listed.Has(topic)
	})
	_, err = admin.DeleteTopic(ctx, topic)
	fails(kerr.UnknownTopicOrPartition, err)
}

func config(topic, key string) *kadm.Config {
	ctx, cancel := limit()
	defer cancel()
	described, err := admin.DescribeTopicConfigs(ctx, topic)
	ok(err)
	resource, err := described.On(topic, nil)
	ok(err)
	for _, entry := range resource.Configs {
		if entry.Key == key {
			return &entry
		}
	}
	return nil // the broker does not know the topic yet
}

// becomes waits, since Kafka's broker learns of a change after the controller has answered.
func becomes(topic, key, value string) {
	eventually(key+" is "+value, func() bool {
		entry := config(topic, key)
		return entry != nil && entry.MaybeValue() == value
	})
}

func alter(topic string, change kadm.AlterConfig) error {
	ctx, cancel := limit()
	defer cancel()
	altered, err := admin.AlterTopicConfigs(ctx, []kadm.AlterConfig{change}, topic)
	ok(err)
	return altered[0].Err
}

func adminConfigs() {
	topic := newTopic("configs", 1)
	ok(alter(topic, kadm.AlterConfig{Op: kadm.SetConfig, Name: "retention.ms", Value: kadm.StringPtr("123456")}))
	becomes(topic, "retention.ms", "123456")
	equal("DYNAMIC_TOPIC_CONFIG", config(topic, "retention.ms").Source.String(), "source")
	ok(alter(topic, kadm.AlterConfig{Op: kadm.DeleteConfig, Name: "retention.ms"}))
	becomes(topic, "retention.ms", "604800000")
	ok(alter(topic, kadm.AlterConfig{Op: kadm.AppendConfig, Name: "cleanup.policy", Value: kadm.StringPtr("compact")}))
	becomes(topic, "cleanup.policy", "delete,compact")
}

func adminGroups() {
	ctx, cancel := limit()
	defer cancel()
	topic, group := newTopic("groups", 2), "franz-groups-"+run
	working := member(group, topic)
	settle(sightings{}, group, []*kgo.Client{working}, 2)
	listed, err := admin.ListGroups(ctx)
	ok(err)
	equal("Stable", listed[group].State, "listed state")
	working.Close()
	eventually("group empty", func() bool {
		described, err := admin.DescribeGroups(ctx, group)
		ok(err)
		return described[group].State == "Empty"
	})
	offsets := kadm.Offsets{}
	offsets.AddOffset(topic, 0, 7, -1)
	offsets.AddOffset(topic, 1, 8, -1)
	ok(admin.CommitAllOffsets(ctx, group, offsets))
	deleted, err := admin.DeleteOffsets(ctx, group, kadm.TopicsSet{topic: {1: {}}})
	ok(err)
	ok(deleted.Error())
	committed, err := admin.FetchOffsets(ctx, group)
	ok(err)
	equal(1, len(committed[topic]), "committed partitions after deleting one")
	equal(int64(7), committed[topic][0].At, "committed offset")
	_, err = admin.DeleteGroup(ctx, group)
	ok(err)
	_, err = admin.DeleteGroup(ctx, group)
	fails(kerr.GroupIDNotFound, err)
}

func deleteRecords() {
	ctx, cancel := limit()
	defer cancel()
	topic := newTopic("delete", 1)
	ok(produce(numbered(topic, 10)))
	before := kadm.Offsets{}
	before.AddOffset(topic, 0, 4, -1)
	deleted, err := admin.DeleteRecords(ctx, before)
	ok(err)
	equal(int64(4), deleted[topic][0].LowWatermark, "low watermark")
	start, err := admin.ListStartOffsets(ctx, topic)
	ok(err)
	equal(int64(4), start[topic][0].Offset, "earliest")
	equal(int64(4), read(topic, 6)[0].Offset, "first offset read")
	before.AddOffset(topic, 0, 11, -1)
	deleted, err = admin.DeleteRecords(ctx, before)
	ok(err)
	fails(kerr.OffsetOutOfRange, deleted[topic][0].Err)
}

func unknownTopic() {
	ctx, cancel := limit()
	defer cancel()
	topic := "franz-nowhere-" + run
	fails(kerr.UnknownTopicOrPartition, produce([]*kgo.Record{{Topic: topic, Value: []byte("v")}}, kgo.UnknownTopicRetries(2)))
	listed, err := admin.ListTopics(ctx, topic)
	ok(err)
	fails(kerr.UnknownTopicOrPartition, listed[topic].Err)
}

func badConfig() {
	ctx, cancel := limit()
	defer cancel()
	topic := newTopic("bad", 1)
	refused := "franz-bad2-" + run
	create := func(name string, partitions int32, replicas int16, configs map[string]*string) error {
		_, err := admin.CreateTopic(ctx, partitions, replicas, configs, name)
		return err
	}
	fails(kerr.InvalidConfig, create(refused, 1, 1, map[string]*string{"no.such.key": kadm.StringPtr("1")}))
	fails(kerr.InvalidConfig, create(refused, 1, 1, map[string]*string{"retention.ms": kadm.StringPtr("soon")}))
	fails(kerr.InvalidReplicationFactor, create(refused, 1, 3, nil))
	fails(kerr.InvalidPartitions, create(refused, 0, 1, nil))
	fails(kerr.InvalidTopicException, create("no spaces please", 1, 1, nil))
	fails(kerr.InvalidConfig, alter(topic, kadm.AlterConfig{Op: kadm.SetConfig, Name: "segment.bytes", Value: kadm.StringPtr("many")}))
	fails(kerr.InvalidConfig, alter(topic, kadm.AlterConfig{Op: kadm.SetConfig, Name: "no.such.key", Value: kadm.StringPtr("1")}))
	listed, err := admin.ListTopics(ctx)
	ok(err)
	check(!listed.Has(refused), "a refused topic was created")
}
