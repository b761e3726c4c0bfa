"""Where logs live. A store is named by `[store] kind` and found by the entry point group `sluiceway.stores`.

`memory`, `sqlite` and `redis` are built in, a folder each. The two durable ones share how appends are committed
together (`group_commit`), who may append (`ownership`), and how records are kept as bytes (`runs`).
"""
