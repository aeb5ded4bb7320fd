"""What is durable: the write-ahead log of a worker slot, and the small files of a node.

* ``files``: the one layer of file operations; ``memory``: a disk that forgets, for tests;
* ``records``: the bytes of a WAL record; ``runs``: the bytes of a run of entries;
* ``segments``: the files of a WAL; ``recovery``: reading them back; ``wal``: writing them;
* ``locks``: who may write; ``documents``, ``placement``, ``identity``: small files;
* ``errors``: everything that can be refused.

Formats byte by byte and the answer to each failure: ``docs/storage.md``.
"""
