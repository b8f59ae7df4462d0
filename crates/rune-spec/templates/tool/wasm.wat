;; A WASI preview 1 command: one JSON object on standard input, one JSON value on standard output. This one answers its input.
(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  ;; At 0 a buffer's address and length, at 8 how many bytes were moved, from 1024 on the bytes.
  (func (export "_start")
    (local $left i32)
    (block $done
      (loop $more
        (i32.store (i32.const 0) (i32.const 1024))
        (i32.store (i32.const 4) (i32.const 65536))
        (br_if $done (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
        (local.set $left (i32.load (i32.const 8)))
        (br_if $done (i32.eqz (local.get $left)))
        (loop $rest
          (i32.store (i32.const 4) (local.get $left))
          (br_if $done (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
          ;; What was not written yet.
          (i32.store (i32.const 0) (i32.add (i32.load (i32.const 0)) (i32.load (i32.const 8))))
          (local.set $left (i32.sub (local.get $left) (i32.load (i32.const 8))))
          (br_if $rest (local.get $left)))
        (br $more)))))
