import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.Future;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/** What all scenarios stand on: connections to the broker, topics of this run, and reading and writing in the plain way. */
abstract class Client {
    static final String RUN = Long.toString(System.currentTimeMillis(), 36);
    final String bootstrap;
    final Admin admin;

    Client(String bootstrap) {
        this.bootstrap = bootstrap;
        this.admin = Admin.create(Map.of("bootstrap.servers", bootstrap, "default.api.timeout.ms", 30000));
    }

    String topic(String scenario, int partitions) throws Exception {
        String name = "java-" + scenario + "-" + RUN;
        admin.createTopics(List.of(new NewTopic(name, partitions, (short) 1))).all().get();
        return name;
    }

    KafkaProducer<byte[], byte[]> producer(Object... pairs) {
        return new KafkaProducer<>(options(pairs), new ByteArraySerializer(), new ByteArraySerializer());
    }

    KafkaConsumer<byte[], byte[]> consumer(Object... pairs) {
        Map<String, Object> options = options("auto.offset.reset", "earliest", "enable.auto.commit", false);
        options.putAll(options(pairs));
        return new KafkaConsumer<>(options, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    Map<String, Object> options(Object... pairs) {
        Map<String, Object> options = new HashMap<>(Map.of("bootstrap.servers", bootstrap));
        for (int i = 0; i < pairs.length; i += 2) {
            options.put((String) pairs[i], pairs[i + 1]);
        }
        return options;
    }

    void produce(String topic, int count) throws Exception {
        try (KafkaProducer<byte[], byte[]> producer = producer()) {
            List<Future<RecordMetadata>> sent = new ArrayList<>();
            for (int i = 0; i < count; i++) {
                sent.add(producer.send(new ProducerRecord<>(topic, 0, bytes("k" + i), bytes("v" + i))));
            }
            for (int i = 0; i < count; i++) {
                Harness.equal((long) i, sent.get(i).get().offset(), "offset of record " + i);
            }
        }
    }

    static List<ConsumerRecord<byte[], byte[]>> poll(KafkaConsumer<byte[], byte[]> consumer, int count) throws Exception {
        List<ConsumerRecord<byte[], byte[]>> records = new ArrayList<>();
        Harness.eventually(count + " records", () -> {
            consumer.poll(Duration.ofMillis(100)).forEach(records::add);
            return records.size() >= count;
        });
        Harness.equal(count, records.size(), "records");
        return records;
    }

    /** All records of partition 0, from the beginning. */
    List<ConsumerRecord<byte[], byte[]>> read(String topic, int count) throws Exception {
        TopicPartition partition = new TopicPartition(topic, 0);
        try (KafkaConsumer<byte[], byte[]> consumer = consumer("check.crcs", true)) {
            consumer.assign(List.of(partition));
            consumer.seekToBeginning(List.of(partition));
            return poll(consumer, count);
        }
    }

    static byte[] bytes(String text) {
        return text == null ? null : text.getBytes(StandardCharsets.UTF_8);
    }

    KafkaConsumer<byte[], byte[]> member(String group, String topic) {
        KafkaConsumer<byte[], byte[]> member = consumer("group.id", group, "group.protocol", "classic",
            "session.timeout.ms", 10000, "heartbeat.interval.ms", 200);
        member.subscribe(List.of(topic));
        return member;
    }

    void produceEverywhere(String topic, String tag) throws Exception {
        try (KafkaProducer<byte[], byte[]> producer = producer()) {
            for (int i = 0; i < 80; i++) {
                producer.send(new ProducerRecord<>(topic, i % 4, null, bytes(tag + i)));
            }
        }
    }

    static void drain(Set<String> seen, KafkaConsumer<byte[], byte[]> member) {
        for (ConsumerRecord<byte[], byte[]> record : member.poll(Duration.ofMillis(50))) {
            String id = record.partition() + "/" + record.offset();
            Harness.check(seen.add(id), "record " + id + " came twice");
        }
    }

    /** Poll until the members hold these numbers of partitions; records that arrive meanwhile count as seen. */
    static void settle(Set<String> seen, List<KafkaConsumer<byte[], byte[]>> members, Integer... sizes) throws Exception {
        Harness.eventually("assignment " + Arrays.toString(sizes), () -> {
            List<Integer> now = new ArrayList<>();
            for (KafkaConsumer<byte[], byte[]> member : members) {
                drain(seen, member);
                now.add(member.assignment().size());
            }
            return now.equals(Arrays.asList(sizes));
        });
    }
}
