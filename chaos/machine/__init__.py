"""A whole machine whose power is cut: a Linux kernel as an ordinary process, the broker and its clients inside."""
