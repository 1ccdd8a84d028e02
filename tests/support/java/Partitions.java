import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Future;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/** Appends a record of each key in standard input, one a line: SERVERS TOPIC. */
class Partitions {
    public static void main(String[] arguments) throws Exception {
        byte[] input = System.in.readAllBytes();
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        Map<String, Object> config = Map.of("bootstrap.servers", arguments[0], "acks", "all");
        ByteArraySerializer bytes = new ByteArraySerializer();
        try (KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(config, bytes, bytes)) {
            for (String key : new String(input, StandardCharsets.UTF_8).split("\n")) {
                byte[] encoded = key.getBytes(StandardCharsets.UTF_8);
                sent.add(producer.send(new ProducerRecord<>(arguments[1], encoded, encoded)));
            }
            for (Future<RecordMetadata> each : sent) {
                each.get();
            }
        }
    }
}
