import java.io.IOException;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.security.MessageDigest;
import java.time.Duration;
import java.util.Arrays;
import java.util.Collection;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.InterruptException;
import org.apache.kafka.common.errors.RecordTooLargeException;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * One real client under load, in Java: the same specification (as key=value arguments) and the same history as
 * chaos/process/client.py. It runs until SIGTERM, then finishes what is under way, and leaves.
 */
public final class ChaosClient {
    private static final int KEYS = 16;
    private static final Duration ANSWER_MAX = Duration.ofSeconds(5);
    private static final long COMMIT_EVERY_NS = 300_000_000L;

    private final Map<String, String> spec = new HashMap<>();
    private final List<String> topics;
    private final OutputStream history;
    private final Random random;
    private final Thread main = Thread.currentThread();
    private volatile boolean stopped;
    private int commits;
    /** Behind what was handed over and is not committed yet. */
    private final Map<TopicPartition, Long> positions = new HashMap<>();

    private ChaosClient(String[] arguments) throws IOException {
        for (String argument : arguments) {
            String[] pair = argument.split("=", 2);
            spec.put(pair[0], pair[1]);
        }
        topics = List.of(spec.get("topics").split(","));
        random = new Random(Long.parseLong(spec.get("seed")));
        Path path = Path.of(spec.get("history"), spec.get("name") + ".jsonl");
        history = Files.newOutputStream(path, StandardOpenOption.CREATE, StandardOpenOption.APPEND);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            stopped = true;
            try {
                main.join();
            } catch (InterruptedException interrupted) {
                Thread.currentThread().interrupt();
            }
        }));
    }

    public static void main(String[] arguments) throws Exception {
        ChaosClient client = new ChaosClient(arguments);
        boolean producer = client.spec.get("kind").equals("java-producer");
        client.write("client", "\"kind\":\"" + client.spec.get("kind") + "\",\"library\":\"" + client.spec.get("library")
            + "\",\"group\":" + (producer ? "null" : "\"" + client.spec.get("group") + "\"")
            + ",\"idempotent\":" + (producer ? client.idempotent() : "null"));
        if (producer) {
            client.produce();
        } else {
            client.consume();
        }
    }

    private boolean idempotent() {
        return spec.get("idempotent").equalsIgnoreCase("true");
    }

    private void write(String event, String fields) {
        String line = "{\"e\":\"" + event + "\",\"t\":" + System.nanoTime() + "," + fields + "}\n";
        try {
            synchronized (history) {
                history.write(line.getBytes(StandardCharsets.UTF_8));
            }
        } catch (IOException error) {
            throw new java.io.UncheckedIOException(error);
        }
    }

    private Map<String, Object> connection() {
        return new HashMap<>(Map.of("bootstrap.servers", spec.get("bootstrap"), "client.id", spec.get("name"),
            "reconnect.backoff.ms", 20, "reconnect.backoff.max.ms", 200, "retry.backoff.ms", 30, "request.timeout.ms", 5000));
    }

    // records

    private void produce() throws Exception {
        Map<String, Object> options = connection();
        options.putAll(Map.of("acks", spec.get("acks"), "enable.idempotence", idempotent(), "linger.ms", 2,
            "delivery.timeout.ms", 60_000, "max.block.ms", 2000, "compression.type", spec.getOrDefault("codec", "none")));
        long gap = (long) (1e9 / Double.parseDouble(spec.get("records_per_second")));
        long due = System.nanoTime();
        KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(options, new ByteArraySerializer(), new ByteArraySerializer());
        boolean told = !spec.get("acks").equals("0");
        for (int number = 0; !stopped; number++) {
            String topic = topics.get(random.nextInt(topics.size()));
            byte[] value = value(spec.get("name"), number, 40 + random.nextInt(Integer.parseInt(spec.get("value_bytes")) - 40));
            write("send", "\"id\":" + number + ",\"topic\":\"" + topic + "\",\"acks\":\"" + spec.get("acks") + "\",\"idempotent\":" + idempotent());
            int id = number;
            producer.send(new ProducerRecord<>(topic, ("k" + number % KEYS).getBytes(StandardCharsets.UTF_8), value), (sent, error) -> {
                if (error != null) {
                    failed(id, error);
                } else if (told) {
                    write("acked", "\"id\":" + id + ",\"partition\":" + sent.partition() + ",\"offset\":" + sent.offset());
                }
            });
            due = Math.max(due + gap, System.nanoTime() - gap);
            TimeUnit.NANOSECONDS.sleep(due - System.nanoTime());
        }
        producer.close(Duration.ofSeconds(20));
    }

    private void failed(int id, Exception error) {
        write("failed", "\"id\":" + id + ",\"error\":\"" + error.getClass().getSimpleName() + "\",\"sure\":"
            + (error instanceof RecordTooLargeException));
    }

    private static byte[] value(String client, int number, int size) throws Exception {
        byte[] head = (client + ":" + number + ":" + size + ":").getBytes(StandardCharsets.US_ASCII);
        byte[] digest = MessageDigest.getInstance("SHA-256").digest(head);
        byte[] pattern = HexFormat.of().formatHex(digest).getBytes(StandardCharsets.US_ASCII);
        byte[] value = Arrays.copyOf(head, Math.max(Math.max(size, 32), head.length));
        for (int place = head.length; place < value.length; place++) {
            value[place] = pattern[(place - head.length) % pattern.length];
        }
        return value;
    }

    // groups

    private void consume() throws Exception {
        double stay = Double.parseDouble(spec.getOrDefault("stay_seconds", "0"));
        while (!stopped) {
            long until = stay == 0 ? Long.MAX_VALUE : System.nanoTime() + (long) ((0.5 + random.nextDouble()) * stay * 1e9);
            visit(until);
            long away = System.nanoTime() + 200_000_000L + random.nextInt(800) * 1_000_000L;
            while (!stopped && System.nanoTime() < away) {
                Thread.sleep(50);
            }
        }
    }

    private void visit(long until) throws Exception {
        Map<String, Object> options = connection();
        options.putAll(Map.of("group.id", spec.get("group"), "group.protocol", "classic", "enable.auto.commit", false,
            "auto.offset.reset", "earliest", "session.timeout.ms", 1500, "heartbeat.interval.ms", 300, "fetch.max.wait.ms", 50,
            "metadata.max.age.ms", 2000, "default.api.timeout.ms", 5000));
        KafkaConsumer<byte[], byte[]> consumer =
            new KafkaConsumer<>(options, new ByteArrayDeserializer(), new ByteArrayDeserializer());
        consumer.subscribe(topics, new Listener(consumer));
        long due = System.nanoTime() + COMMIT_EVERY_NS;
        while (!stopped && System.nanoTime() < until) {
            try {
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofMillis(100))) {
                    seen(record);
                }
            } catch (RuntimeException error) {
                write("error", "\"error\":\"poll: " + error.getClass().getSimpleName() + "\"");
            }
            if (System.nanoTime() >= due) {
                due = System.nanoTime() + COMMIT_EVERY_NS;
                commit(consumer);
            }
        }
        try {
            consumer.close(Duration.ofSeconds(3));
        } catch (RuntimeException error) {
            write("error", "\"error\":\"close: " + error.getClass().getSimpleName() + "\"");
        }
    }

    private void seen(ConsumerRecord<byte[], byte[]> record) throws Exception {
        String[] head = new String(record.value(), StandardCharsets.ISO_8859_1).split(":", 4);
        boolean claims = head.length == 4 && head[0].matches("[a-z0-9.-]{1,40}") && head[1].matches("[0-9]{1,9}") && head[2].matches("[0-9]{1,7}");
        boolean whole = claims && Arrays.equals(record.value(), value(head[0], Integer.parseInt(head[1]), Integer.parseInt(head[2])));
        String identity = claims ? "[\"" + head[0] + "\"," + head[1] + "]" : "null";
        write("seen", at(record.topic(), record.partition()) + ",\"offset\":" + record.offset() + ",\"id\":" + (whole ? identity : "null")
            + (whole ? "" : ",\"like\":" + identity) + record.leaderEpoch().map(epoch -> ",\"epoch\":" + epoch).orElse(""));
        positions.put(new TopicPartition(record.topic(), record.partition()), record.offset() + 1);
    }

    private static String at(String topic, int partition) {
        return "\"topic\":\"" + topic + "\",\"partition\":" + partition;
    }

    private void commit(KafkaConsumer<byte[], byte[]> consumer) {
        for (TopicPartition where : List.copyOf(positions.keySet())) {
            Long offset = positions.remove(where);
            if (offset == null) {
                continue;  // a rebalance during an earlier commit has taken it away
            }
            int id = ++commits;
            write("commit", "\"id\":" + id + ",\"group\":\"" + spec.get("group") + "\"," + at(where.topic(), where.partition())
                + ",\"offset\":" + offset);
            try {
                consumer.commitSync(Map.of(where, new OffsetAndMetadata(offset)), ANSWER_MAX);
                write("committed", "\"id\":" + id);
            } catch (RuntimeException error) {
                if (error instanceof InterruptException) {
                    throw error;
                }
                write("uncommitted", "\"id\":" + id + ",\"error\":\"" + error.getClass().getSimpleName() + "\",\"sure\":false");
            }
        }
    }

    private final class Listener implements ConsumerRebalanceListener {
        private final KafkaConsumer<byte[], byte[]> consumer;

        private Listener(KafkaConsumer<byte[], byte[]> consumer) {
            this.consumer = consumer;
        }

        @Override
        public void onPartitionsRevoked(Collection<TopicPartition> revoked) {
            revoked.forEach(positions::remove);
        }

        @Override
        public void onPartitionsAssigned(Collection<TopicPartition> assigned) {
            StringBuilder partitions = new StringBuilder();
            for (TopicPartition where : assigned) {
                partitions.append(partitions.isEmpty() ? "" : ",").append("[\"").append(where.topic()).append("\",").append(where.partition()).append("]");
                positions.remove(where);
            }
            write("assigned", "\"partitions\":[" + partitions + "]");
            for (TopicPartition where : assigned) {
                long asked = System.nanoTime();
                try {
                    OffsetAndMetadata found = consumer.committed(Set.of(where), ANSWER_MAX).get(where);
                    write("answer", "\"what\":\"committed\"," + at(where.topic(), where.partition()) + ",\"offset\":"
                        + (found == null ? -1 : found.offset()) + ",\"asked\":" + asked + ",\"group\":\"" + spec.get("group") + "\"");
                } catch (RuntimeException error) {
                    // No answer, nothing to judge.
                }
            }
        }
    }
}
