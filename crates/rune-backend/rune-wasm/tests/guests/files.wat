;; A WASI preview 1 command that tries paths in the first directory it was granted:
;;   {"path":"P"}  answers {"content":"…"}
;;   {"into":"P"}  writes `hi` and answers {"errno":0}
;;   {"link":"P"}  makes a symbolic link to ../../.. and answers {"errno":0}
;; and answers {"errno":NN} where that is refused.
(module
  (import "wasi_snapshot_preview1" "fd_read"
    (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_symlink"
    (func $symlink (param i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 100) "{\"content\":\"")
  (data (i32.const 120) "\"}")
  (data (i32.const 130) "{\"errno\":")
  (data (i32.const 140) "}")
  (data (i32.const 150) "hi")
  (data (i32.const 160) "../../..")
  (func $put (param $file i32) (param $at i32) (param $length i32) (result i32)
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (local.get $length))
    (call $write (local.get $file) (i32.const 0) (i32.const 1) (i32.const 8)))
  (func $get (param $file i32) (param $at i32) (result i32)
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (i32.const 10000))
    (i32.store (i32.const 8) (i32.const 0))
    (drop (call $read (local.get $file) (i32.const 0) (i32.const 1) (i32.const 8)))
    (i32.load (i32.const 8)))
  (func $errno (param $errno i32)
    (i32.store8 (i32.const 200)
      (i32.add (i32.const 48) (i32.div_u (local.get $errno) (i32.const 10))))
    (i32.store8 (i32.const 201)
      (i32.add (i32.const 48) (i32.rem_u (local.get $errno) (i32.const 10))))
    (drop (call $put (i32.const 1) (i32.const 130) (i32.const 9)))
    (if (i32.ge_u (local.get $errno) (i32.const 10))
      (then (drop (call $put (i32.const 1) (i32.const 200) (i32.const 2))))
      (else (drop (call $put (i32.const 1) (i32.const 201) (i32.const 1)))))
    (drop (call $put (i32.const 1) (i32.const 140) (i32.const 1))))
  (func (export "_start")
    (local $length i32) (local $verb i32) (local $errno i32) (local $file i32)
    ;; The path lies between `{"path":"` and `"}`.
    (local.set $length (i32.sub (call $get (i32.const 0) (i32.const 1024)) (i32.const 11)))
    (local.set $verb (i32.load8_u (i32.const 1026)))
    (if (i32.eq (local.get $verb) (i32.const 108)) ;; l
      (then
        (call $errno (call $symlink (i32.const 160) (i32.const 8) (i32.const 3)
          (i32.const 1033) (local.get $length)))
        (return)))
    (if (i32.eq (local.get $verb) (i32.const 105)) ;; i
      (then
        (local.set $errno (call $open (i32.const 3) (i32.const 1) (i32.const 1033) (local.get $length)
          (i32.const 9) (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 16)))
        (if (i32.eqz (local.get $errno))
          (then (drop (call $put (i32.load (i32.const 16)) (i32.const 150) (i32.const 2)))))
        (call $errno (local.get $errno))
        (return)))
    (local.set $errno (call $open (i32.const 3) (i32.const 1) (i32.const 1033) (local.get $length)
      (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 16)))
    (if (local.get $errno)
      (then
        (call $errno (local.get $errno))
        (return)))
    (local.set $file (i32.load (i32.const 16)))
    (drop (call $put (i32.const 1) (i32.const 100) (i32.const 12)))
    (local.set $length (call $get (local.get $file) (i32.const 20000)))
    (drop (call $put (i32.const 1) (i32.const 20000) (local.get $length)))
    (drop (call $put (i32.const 1) (i32.const 120) (i32.const 2)))))
