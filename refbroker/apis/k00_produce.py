from refbroker.protocol import INT8, INT16, INT32, INT64, RECORDS, STRING, UUID, ZERO_UUID, Api, Array, Field, Struct

REQUEST = Struct(
    Field("transactional_id", STRING, "3+", nullable="3+", default=None),
    Field("acks", INT16),
    Field("timeout_ms", INT32),
    Field("topic_data", Array(Struct(
        Field("name", STRING, "0-12", default=""),
        Field("topic_id", UUID, "13+", default=ZERO_UUID),
        Field("partition_data", Array(Struct(
            Field("index", INT32),
            Field("records", RECORDS, nullable="0+"),
        ))),
    ))),
)  # fmt: skip

RESPONSE = Struct(
    Field("responses", Array(Struct(
        Field("name", STRING, "0-12", default=""),
        Field("topic_id", UUID, "13+", default=ZERO_UUID),
        Field("partition_responses", Array(Struct(
            Field("index", INT32),
            Field("error_code", INT16),
            Field("base_offset", INT64),
            Field("log_append_time_ms", INT64, "2+", default=-1),
            Field("log_start_offset", INT64, "5+", default=-1),
            Field("record_errors", Array(Struct(
                Field("batch_index", INT32, "8+"),
                Field("batch_index_error_message", STRING, "8+", nullable="8+", default=None),
            )), "8+", default=()),
            Field("error_message", STRING, "8+", nullable="8+", default=None),
            Field("current_leader", Struct(
                Field("leader_id", INT32, "10+", default=-1),
                Field("leader_epoch", INT32, "10+", default=-1),
            ), "10+", tag=0),
        ))),
    ))),
    Field("throttle_time_ms", INT32, "1+", default=0),
    Field("node_endpoints", Array(Struct(
        Field("node_id", INT32, "10+"),
        Field("host", STRING, "10+"),
        Field("port", INT32, "10+"),
        Field("rack", STRING, "10+", nullable="10+", default=None),
    )), "10+", tag=0),
)  # fmt: skip

API = Api(key=0, name="Produce", versions=(3, 13), flexible=9, request=REQUEST, response=RESPONSE)
async def handle(broker, request, context): ...
