"""What is durable: the write-ahead log of a worker slot, and the small files of a node.

* ``files``: the one layer of file operations; ``memory``: a disk that forgets, for tests;
* ``records``: the bytes of a WAL record; ``runs``: the bytes of a run of entries;
  ``configurations``: who takes part, in either;
* ``segments``: the files of a WAL; ``wal``: writing them; ``recovery``: reading them back, with
  ``reader`` (bytes to batches) and ``replay`` (records to groups);
* ``snapshots``: the snapshot files of a group; ``snapshot_file``: the bytes of one;
* ``locks``: who may write; ``documents``, ``placement``, ``identity``: small files;
* ``errors``: everything that can be refused.

Formats byte by byte and the answer to each failure: ``docs/storage.md``.
"""
