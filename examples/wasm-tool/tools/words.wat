;; A WASI preview 1 command that counts the words of {"text":"…"}: what lies between `{"text":"` and `"}`.
(module
  (import "wasi_snapshot_preview1" "fd_read"
    (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 16)
  (data (i32.const 100) "{\"words\":")
  (func $put (param $at i32) (param $length i32)
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (local.get $length))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func (export "_start")
    (local $at i32) (local $end i32) (local $words i32) (local $inside i32) (local $is_space i32)
    ;; The whole input, from 1024 on.
    (local.set $end (i32.const 1024))
    (loop $more
      (i32.store (i32.const 0) (local.get $end))
      (i32.store (i32.const 4) (i32.sub (i32.const 1000000) (local.get $end)))
      (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
      (local.set $end (i32.add (local.get $end) (i32.load (i32.const 8))))
      (br_if $more (i32.load (i32.const 8))))
    (local.set $at (i32.const 1033))
    (local.set $end (i32.sub (local.get $end) (i32.const 2)))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
        (local.set $is_space (i32.eq (i32.load8_u (local.get $at)) (i32.const 32)))
        ;; A word begins where there was none.
        (local.set $words (i32.add (local.get $words)
          (i32.and (i32.eqz (local.get $is_space)) (i32.eqz (local.get $inside)))))
        (local.set $inside (i32.eqz (local.get $is_space)))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $next)))
    ;; The number, from its end, before the brace at 200.
    (i32.store8 (i32.const 200) (i32.const 125))
    (local.set $at (i32.const 200))
    (loop $digit
      (local.set $at (i32.sub (local.get $at) (i32.const 1)))
      (i32.store8 (local.get $at)
        (i32.add (i32.const 48) (i32.rem_u (local.get $words) (i32.const 10))))
      (local.set $words (i32.div_u (local.get $words) (i32.const 10)))
      (br_if $digit (local.get $words)))
    (call $put (i32.const 100) (i32.const 9))
    (call $put (local.get $at) (i32.sub (i32.const 201) (local.get $at)))))
