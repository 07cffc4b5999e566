import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import java.util.concurrent.Future;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.consumer.OffsetAndTimestamp;
import org.apache.kafka.clients.consumer.OffsetOutOfRangeException;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.RecordTooLargeException;
import org.apache.kafka.common.header.Header;

/** The Java client's scenarios, but for administration: what each must show is told in tests/clients/scenarios.py. */
public final class Scenarios extends Client {
    private Scenarios(String bootstrap) {
        super(bootstrap);
    }

    public static void main(String[] arguments) {
        Scenarios scenarios = new Scenarios(arguments[0]);
        AdminScenarios administration = new AdminScenarios(arguments[0]);
        Harness harness = new Harness();
        for (String codec : List.of("none", "gzip", "snappy", "lz4", "zstd")) {
            harness.add("codec-" + codec, () -> scenarios.codec(codec));
        }
        harness.add("headers", scenarios::headers);
        harness.add("nulls", scenarios::nulls);
        harness.add("rebalance", scenarios::rebalance);
        harness.add("commit-resume", scenarios::commitResume);
        harness.add("seek-by-time", scenarios::seekByTime);
        harness.add("admin-topics", administration::adminTopics);
        harness.add("admin-configs", administration::adminConfigs);
        harness.add("admin-groups", administration::adminGroups);
        harness.add("delete-records", administration::deleteRecords);
        harness.add("idempotent-across-kill", () -> scenarios.idempotentAcrossKill(harness));
        harness.add("error-unknown-topic", administration::unknownTopic);
        harness.add("error-too-large", scenarios::tooLarge);
        harness.add("error-offset-out-of-range", scenarios::offsetOutOfRange);
        harness.add("error-bad-config", administration::badConfig);
        harness.run(Arrays.asList(arguments).subList(1, arguments.length));
        System.exit(0);
    }

    private void codec(String codec) throws Exception {
        String topic = topic("codec-" + codec, 1);
        Random random = new Random(7);
        List<byte[]> values = new ArrayList<>();
        try (KafkaProducer<byte[], byte[]> producer = producer("compression.type", codec, "linger.ms", 20)) {
            for (int i = 0; i < 500; i++) {
                byte[] value = new byte[i * 7];
                for (int j = 0; j < value.length; j++) {
                    value[j] = (byte) (j % 3 == 0 ? random.nextInt(256) : 'a');
                }
                values.add(value);
                producer.send(new ProducerRecord<>(topic, 0, bytes("key-" + i), value));
            }
        }
        List<ConsumerRecord<byte[], byte[]>> records = read(topic, values.size());
        for (int i = 0; i < values.size(); i++) {
            Harness.equal((long) i, records.get(i).offset(), "offset");
            Harness.equal(bytes("key-" + i), records.get(i).key(), "key at " + i);
            Harness.equal(values.get(i), records.get(i).value(), "value at " + i);
        }
    }

    private void headers() throws Exception {
        String topic = topic("headers", 1);
        String[][] headers = {{"a", "1"}, {"a", "2"}, {"empty", ""}, {"null", null}, {"", "no name"}, {"\u00fc\u20ac", "\ud83d\ude00"}};
        try (KafkaProducer<byte[], byte[]> producer = producer()) {
            ProducerRecord<byte[], byte[]> record = new ProducerRecord<>(topic, 0, bytes("k"), bytes("v"));
            for (String[] header : headers) {
                record.headers().add(header[0], bytes(header[1]));
            }
            producer.send(record).get();
        }
        Header[] read = read(topic, 1).get(0).headers().toArray();
        Harness.equal(headers.length, read.length, "headers");
        for (int i = 0; i < headers.length; i++) {
            Harness.equal(headers[i][0], read[i].key(), "name of header " + i);
            Harness.equal(bytes(headers[i][1]), read[i].value(), "value of header " + i);
        }
    }

    private void nulls() throws Exception {
        String topic = topic("nulls", 1);
        String[][] records = {{null, "v"}, {"k", null}, {null, null}, {"", ""}, {"k", "v"}};
        try (KafkaProducer<byte[], byte[]> producer = producer()) {
            for (String[] record : records) {
                producer.send(new ProducerRecord<>(topic, 0, bytes(record[0]), bytes(record[1]))).get();
            }
        }
        List<ConsumerRecord<byte[], byte[]>> read = read(topic, records.length);
        for (int i = 0; i < records.length; i++) {
            Harness.equal(bytes(records[i][0]), read.get(i).key(), "key " + i);
            Harness.equal(bytes(records[i][1]), read.get(i).value(), "value " + i);
        }
    }

    private void rebalance() throws Exception {
        String topic = topic("rebalance", 4);
        Set<String> seen = new HashSet<>();
        try (KafkaConsumer<byte[], byte[]> first = member("java-rebalance-" + RUN, topic)) {
            settle(seen, List.of(first), 4);
            try (KafkaConsumer<byte[], byte[]> second = member("java-rebalance-" + RUN, topic)) {
                settle(seen, List.of(first, second), 2, 2);
                produceEverywhere(topic, "both");
                Harness.eventually("80 records at two members", () -> {
                    drain(seen, first);
                    drain(seen, second);
                    return seen.size() == 80;
                });
                first.commitSync();
                second.commitSync();
            }
            settle(seen, List.of(first), 4);
            produceEverywhere(topic, "one");
            Harness.eventually("160 records in all", () -> {
                drain(seen, first);
                return seen.size() == 160;
            });
        }
    }

    private void commitResume() throws Exception {
        String topic = topic("commit", 1);
        TopicPartition partition = new TopicPartition(topic, 0);
        String group = "java-commit-" + RUN;
        produce(topic, 20);
        try (KafkaConsumer<byte[], byte[]> consumer = consumer("group.id", group, "max.poll.records", 5)) {
            consumer.subscribe(List.of(topic));
            List<ConsumerRecord<byte[], byte[]>> records = poll(consumer, 10);
            Harness.equal(9L, records.get(9).offset(), "last offset");
            consumer.commitSync(Map.of(partition, new OffsetAndMetadata(10, "half way")));
        }
        try (KafkaConsumer<byte[], byte[]> consumer = consumer("group.id", group)) {
            OffsetAndMetadata committed = consumer.committed(Set.of(partition)).get(partition);
            Harness.equal(10L, committed.offset(), "committed offset");
            Harness.equal("half way", committed.metadata(), "committed metadata");
            consumer.subscribe(List.of(topic));
            Harness.equal(10L, poll(consumer, 10).get(0).offset(), "first offset after the resume");
        }
    }

    private void seekByTime() throws Exception {
        String topic = topic("time", 1);
        TopicPartition partition = new TopicPartition(topic, 0);
        long start = System.currentTimeMillis() - 3_600_000;
        try (KafkaProducer<byte[], byte[]> producer = producer()) {
            for (int i = 0; i < 10; i++) {
                producer.send(new ProducerRecord<>(topic, 0, start + i * 1000L, bytes("k"), bytes("v" + i))).get();
            }
        }
        try (KafkaConsumer<byte[], byte[]> consumer = consumer()) {
            OffsetAndTimestamp found = consumer.offsetsForTimes(Map.of(partition, start + 4500)).get(partition);
            Harness.equal(5L, found.offset(), "offset by time");
            Harness.equal(start + 5000, found.timestamp(), "its timestamp");
            Harness.equal(null, consumer.offsetsForTimes(Map.of(partition, start + 9001)).get(partition), "offset after the last");
            consumer.assign(List.of(partition));
            consumer.seek(partition, found.offset());
            ConsumerRecord<byte[], byte[]> first = poll(consumer, 5).get(0);
            Harness.equal(start + 5000, first.timestamp(), "timestamp of the first record");
        }
        Harness.equal(9L, admin.listOffsets(Map.of(partition, OffsetSpec.maxTimestamp())).partitionResult(partition).get().offset(),
            "offset of the largest timestamp");
    }

    private void idempotentAcrossKill(Harness harness) throws Exception {
        String topic = topic("kill", 1);
        int count = 6000;
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        try (KafkaProducer<byte[], byte[]> producer = producer("enable.idempotence", true, "acks", "all", "batch.size", 1000,
                "linger.ms", 1, "delivery.timeout.ms", 120000, "request.timeout.ms", 10000)) {
            Thread sender = new Thread(() -> {
                for (int i = 0; i < count; i++) {
                    Future<RecordMetadata> future = producer.send(new ProducerRecord<>(topic, 0, null, bytes("v" + i)));
                    synchronized (sent) {
                        sent.add(future);
                    }
                    if (i % 10 == 0) {
                        java.util.concurrent.locks.LockSupport.parkNanos(1_000_000);
                    }
                }
            });
            sender.start();
            Harness.eventually("a first part sent", () -> {
                synchronized (sent) {
                    return sent.size() > count / 4;
                }
            });
            harness.ask("kill-restart");
            sender.join();
            for (int i = 0; i < count; i++) {
                long offset = sent.get(i).get().offset();
                // -1: a duplicate, of which the broker no longer knew the offset
                Harness.check(offset == i || offset == -1, "record " + i + " was acknowledged at " + offset);
            }
        }
        List<ConsumerRecord<byte[], byte[]>> records = read(topic, count);
        for (int i = 0; i < count; i++) {
            Harness.equal(bytes("v" + i), records.get(i).value(), "value at " + i);
        }
    }

    private void tooLarge() throws Exception {
        String topic = topic("large", 1);
        try (KafkaProducer<byte[], byte[]> producer = producer("max.request.size", 5_000_000)) {
            ProducerRecord<byte[], byte[]> large = new ProducerRecord<>(topic, 0, null, new byte[2_000_000]);
            Harness.fails(RecordTooLargeException.class, () -> producer.send(large).get());
            ProducerRecord<byte[], byte[]> small = new ProducerRecord<>(topic, 0, null, bytes("small"));
            Harness.equal(0L, producer.send(small).get().offset(), "offset of the next one");
        }
    }

    private void offsetOutOfRange() throws Exception {
        String topic = topic("range", 1);
        TopicPartition partition = new TopicPartition(topic, 0);
        produce(topic, 3);
        try (KafkaConsumer<byte[], byte[]> consumer = consumer("auto.offset.reset", "none")) {
            consumer.assign(List.of(partition));
            consumer.seek(partition, 1000);
            Harness.fails(OffsetOutOfRangeException.class, () -> poll(consumer, 1));
            consumer.seek(partition, 1);
            Harness.equal(1L, poll(consumer, 2).get(0).offset(), "offset after a good seek");
        }
    }
}
