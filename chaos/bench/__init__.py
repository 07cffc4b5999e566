"""How fast is the broker, and how fast is Apache Kafka on the same machine in the same hour? `refbroker bench`."""
