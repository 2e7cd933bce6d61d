"""A client of TiKV's transactional interface, and the `KvStore` over it. Start at `store`."""
