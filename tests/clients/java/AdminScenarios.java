import java.util.Collection;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.Config;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.ConsumerGroupDescription;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.consumer.OffsetOutOfRangeException;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.GroupState;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.GroupIdNotFoundException;
import org.apache.kafka.common.errors.InvalidConfigurationException;
import org.apache.kafka.common.errors.InvalidPartitionsException;
import org.apache.kafka.common.errors.InvalidReplicationFactorException;
import org.apache.kafka.common.errors.InvalidTopicException;
import org.apache.kafka.common.errors.TimeoutException;
import org.apache.kafka.common.errors.TopicExistsException;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;

/** The Java client's scenarios of administration. */
final class AdminScenarios extends Client {
    AdminScenarios(String bootstrap) {
        super(bootstrap);
    }

    void adminTopics() throws Exception {
        String topic = "java-admin-" + RUN;
        NewTopic wanted = new NewTopic(topic, 3, (short) 1).configs(Map.of("segment.bytes", "2000000"));
        var created = admin.createTopics(List.of(wanted));
        Harness.equal(3, created.numPartitions(topic).get(), "partitions of the new topic");
        Harness.check(!created.topicId(topic).get().toString().isEmpty(), "no topic id");
        Harness.fails(TopicExistsException.class, () -> admin.createTopics(List.of(wanted)).all().get());
        Harness.check(admin.listTopics().names().get().contains(topic), "not listed");
        var described = admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic);
        Harness.equal(3, described.partitions().size(), "partitions");
        Harness.equal(created.topicId(topic).get(), described.topicId(), "topic id");
        admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(5))).all().get();
        Harness.eventually("5 partitions",
            () -> admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic).partitions().size() == 5);
        Harness.fails(InvalidPartitionsException.class,
            () -> admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(2))).all().get());
        Harness.equal(1, admin.describeCluster().nodes().get().size(), "nodes");
        admin.deleteTopics(List.of(topic)).all().get();
        Harness.eventually("not listed any more", () -> !admin.listTopics().names().get().contains(topic));
        Harness.fails(UnknownTopicOrPartitionException.class, () -> admin.deleteTopics(List.of(topic)).all().get());
    }

    void adminConfigs() throws Exception {
        ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic("configs", 1));
        alter(resource, "retention.ms", "123456", AlterConfigOp.OpType.SET);
        becomes(resource, "retention.ms", "123456");
        Harness.equal(ConfigEntry.ConfigSource.DYNAMIC_TOPIC_CONFIG, config(resource).get("retention.ms").source(), "source");
        alter(resource, "retention.ms", "", AlterConfigOp.OpType.DELETE);
        becomes(resource, "retention.ms", "604800000");
        alter(resource, "cleanup.policy", "compact", AlterConfigOp.OpType.APPEND);
        becomes(resource, "cleanup.policy", "delete,compact");
        String id = admin.describeCluster().nodes().get().iterator().next().idString();
        ConfigResource broker = new ConfigResource(ConfigResource.Type.BROKER, id);
        Harness.check(config(broker).get("log.segment.bytes") != null, "no log.segment.bytes among the broker's configs");
    }

    private Config config(ConfigResource resource) throws Exception {
        return admin.describeConfigs(List.of(resource)).all().get().get(resource);
    }

    /** Waits, since Kafka's broker learns of a change after the controller has answered. */
    private void becomes(ConfigResource resource, String key, String value) throws Exception {
        Harness.eventually(key + " is " + value, () -> config(resource).get(key).value().equals(value));
    }

    private void alter(ConfigResource resource, String key, String value, AlterConfigOp.OpType how) throws Exception {
        Collection<AlterConfigOp> change = List.of(new AlterConfigOp(new ConfigEntry(key, value), how));
        admin.incrementalAlterConfigs(Map.of(resource, change)).all().get();
    }

    void adminGroups() throws Exception {
        String topic = topic("groups", 2);
        String group = "java-groups-" + RUN;
        try (KafkaConsumer<byte[], byte[]> member = member(group, topic)) {
            settle(new HashSet<>(), List.of(member), 2);
            member.commitSync(Map.of(new TopicPartition(topic, 1), new OffsetAndMetadata(0)));
            ConsumerGroupDescription described = describe(group);
            Harness.equal(GroupState.STABLE, described.groupState(), "state");
            Harness.equal(1, described.members().size(), "members");
            Harness.equal(2, described.members().iterator().next().assignment().topicPartitions().size(), "assigned partitions");
        }
        Harness.eventually("group empty", () -> describe(group).groupState() == GroupState.EMPTY);
        Harness.check(admin.listGroups().all().get().stream().anyMatch(listing -> listing.groupId().equals(group)), "not listed");
        TopicPartition partition = new TopicPartition(topic, 0);
        admin.alterConsumerGroupOffsets(group, Map.of(partition, new OffsetAndMetadata(7))).all().get();
        var offsets = admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get();
        Harness.equal(7L, offsets.get(partition).offset(), "altered offset");
        Harness.equal(2, offsets.size(), "committed partitions");
        admin.deleteConsumerGroupOffsets(group, Set.of(partition)).all().get();
        Harness.equal(1, admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get().size(), "after deleting one");
        admin.deleteConsumerGroups(List.of(group)).all().get();
        Harness.fails(GroupIdNotFoundException.class, () -> admin.deleteConsumerGroups(List.of(group)).all().get());
    }

    private ConsumerGroupDescription describe(String group) throws Exception {
        return admin.describeConsumerGroups(List.of(group)).all().get().get(group);
    }

    void deleteRecords() throws Exception {
        String topic = topic("delete", 1);
        TopicPartition partition = new TopicPartition(topic, 0);
        produce(topic, 10);
        var deleted = admin.deleteRecords(Map.of(partition, RecordsToDelete.beforeOffset(4)));
        Harness.equal(4L, deleted.lowWatermarks().get(partition).get().lowWatermark(), "low watermark");
        var earliest = admin.listOffsets(Map.of(partition, OffsetSpec.earliest())).partitionResult(partition).get();
        Harness.equal(4L, earliest.offset(), "earliest");
        Harness.equal(4L, read(topic, 6).get(0).offset(), "first offset read");
        Harness.fails(org.apache.kafka.common.errors.OffsetOutOfRangeException.class,
            () -> admin.deleteRecords(Map.of(partition, RecordsToDelete.beforeOffset(11))).all().get());
    }

    void unknownTopic() throws Exception {
        String topic = "java-nowhere-" + RUN;
        Harness.fails(UnknownTopicOrPartitionException.class, () -> admin.describeTopics(List.of(topic)).allTopicNames().get());
        try (KafkaProducer<byte[], byte[]> producer = producer("max.block.ms", 2000)) {
            Harness.fails(TimeoutException.class, () -> producer.send(new ProducerRecord<>(topic, bytes("v"))).get());
        }
        Harness.check(!admin.listTopics().names().get().contains(topic), "the topic was created");
    }

    void badConfig() throws Exception {
        ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic("bad", 1));
        for (Map<String, String> configs : List.of(Map.of("no.such.key", "1"), Map.of("retention.ms", "soon"))) {
            NewTopic topic = new NewTopic("java-bad2-" + RUN, 1, (short) 1).configs(configs);
            Harness.fails(InvalidConfigurationException.class, () -> create(topic));
        }
        Harness.fails(InvalidReplicationFactorException.class, () -> create(new NewTopic("java-bad2-" + RUN, 1, (short) 3)));
        Harness.fails(InvalidPartitionsException.class, () -> create(new NewTopic("java-bad2-" + RUN, 0, (short) 1)));
        Harness.fails(InvalidTopicException.class, () -> create(new NewTopic("no spaces please", 1, (short) 1)));
        Harness.fails(InvalidConfigurationException.class, () -> alter(resource, "segment.bytes", "many", AlterConfigOp.OpType.SET));
        Harness.fails(InvalidConfigurationException.class, () -> alter(resource, "no.such.key", "1", AlterConfigOp.OpType.SET));
        Harness.check(!admin.listTopics().names().get().contains("java-bad2-" + RUN), "a refused topic was created");
    }

    private void create(NewTopic topic) throws Exception {
        admin.createTopics(List.of(topic)).all().get();
    }
}
