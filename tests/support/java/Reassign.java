import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewPartitionReassignment;
import org.apache.kafka.common.ElectionType;
import org.apache.kafka.common.TopicPartition;

/**
 * Moves the partitions of a topic, and waits until they are moved: SERVERS TOPIC 1,2 2,3 ...
 *
 * <p>The first broker of each then leads.
 */
class Reassign {
    public static void main(String[] arguments) throws Exception {
        Map<TopicPartition, Optional<NewPartitionReassignment>> wanted = new HashMap<>();
        for (int place = 2; place < arguments.length; place++) {
            List<Integer> brokers =
                Arrays.stream(arguments[place].split(",")).map(Integer::valueOf).toList();
            wanted.put(
                new TopicPartition(arguments[1], place - 2),
                Optional.of(new NewPartitionReassignment(brokers)));
        }
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", arguments[0]))) {
            admin.alterPartitionReassignments(wanted).all().get();
            while (!admin
                .listPartitionReassignments(wanted.keySet())
                .reassignments()
                .get()
                .isEmpty()) {
                Thread.sleep(50);
            }
            admin.electLeaders(ElectionType.PREFERRED, wanted.keySet()).partitions().get();
        }
    }
}
