import com.fasterxml.jackson.databind.ObjectMapper;
import io.cloudevents.CloudEvent;
import io.cloudevents.kafka.CloudEventDeserializer;
import java.time.Duration;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringDeserializer;

/**
 * Prints the first events of a topic's first partition, one a line: SERVERS TOPIC COUNT.
 *
 * <p>Each is an object of its attributes as text, and of its data in Base64; null where the SDK
 * finds no event.
 */
class ReadEvents {
    public static void main(String[] arguments) throws Exception {
        TopicPartition partition = new TopicPartition(arguments[1], 0);
        int left = Integer.parseInt(arguments[2]);
        ObjectMapper json = new ObjectMapper();
        try (KafkaConsumer<String, CloudEvent> consumer =
            new KafkaConsumer<>(
                Map.of("bootstrap.servers", arguments[0]),
                new StringDeserializer(),
                new CloudEventDeserializer())) {
            consumer.assign(List.of(partition));
            consumer.seekToBeginning(List.of(partition));
            while (left > 0) {
                for (ConsumerRecord<String, CloudEvent> record : consumer.poll(Duration.ofSeconds(1))) {
                    left--;
                    System.out.println(json.writeValueAsString(members(record.value())));
                }
            }
        }
    }

    private static Map<String, Object> members(CloudEvent event) {
        if (event == null) {
            return null;
        }
        Map<String, Object> attributes = new LinkedHashMap<>();
        for (String name : event.getAttributeNames()) {
            attributes.put(name, event.getAttribute(name).toString());
        }
        for (String name : event.getExtensionNames()) {
            attributes.put(name, event.getExtension(name).toString());
        }
        Map<String, Object> members = new LinkedHashMap<>();
        members.put("attributes", attributes);
        members.put("data", event.getData() == null ? null : event.getData().toBytes());
        return members;
    }
}
