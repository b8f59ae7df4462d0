;; A component with the world `rune:tool` that opens NAME in the first directory it was granted: for reading where the input
;; is {"path":"NAME"}, for writing where it is {"into":"NAME"}, which makes the file where there is none. Answers "000" where
;; that went well, else one more than the number of the error's case.
(component
  (import "wasi:filesystem/types@0.2.0" (instance $files
    (export "descriptor" (type $descriptor (sub resource)))
    (type $file_error_type (enum
      "access" "would-block" "already" "bad-descriptor" "busy" "deadlock" "quota" "exist"
      "file-too-large" "illegal-byte-sequence" "in-progress" "interrupted" "invalid" "io"
      "is-directory" "loop" "too-many-links" "message-size" "name-too-long" "no-device" "no-entry"
      "no-lock" "insufficient-memory" "insufficient-space" "not-directory" "not-empty"
      "not-recoverable" "unsupported" "no-tty" "no-such-device" "overflow" "not-permitted" "pipe"
      "read-only" "invalid-seek" "text-file-busy" "cross-device"))
    (export "error-code" (type $file_error (eq $file_error_type)))
    (type $path_flags_type (flags "symlink-follow"))
    (export "path-flags" (type $path_flags (eq $path_flags_type)))
    (type $open_flags_type (flags "create" "directory" "exclusive" "truncate"))
    (export "open-flags" (type $open_flags (eq $open_flags_type)))
    (type $descriptor_flags_type (flags
      "read" "write" "file-integrity-sync" "data-integrity-sync" "requested-write-sync"
      "mutate-directory"))
    (export "descriptor-flags" (type $descriptor_flags (eq $descriptor_flags_type)))
    (export "[method]descriptor.open-at" (func
      (param "self" (borrow $descriptor)) (param "path-flags" $path_flags) (param "path" string)
      (param "open-flags" $open_flags) (param "flags" $descriptor_flags)
      (result (result (own $descriptor) (error $file_error)))))))
  (alias export $files "descriptor" (type $file))
  (import "wasi:filesystem/preopens@0.2.0" (instance $preopens
    (alias outer 1 $file (type $the_file))
    (export "descriptor" (type $directory (eq $the_file)))
    (export "get-directories" (func (result (list (tuple (own $directory) string)))))))
  (core module $memory
    (memory (export "memory") 1)
    (global $next (mut i32) (i32.const 8192))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
      (global.set $next (i32.add (local.get $at) (local.get 3)))
      (local.get $at)))
  (core instance $memory (instantiate $memory))
  (core func $directories (canon lower (func $preopens "get-directories")
    (memory (core memory $memory "memory")) (realloc (core func $memory "realloc")) string-encoding=utf8))
  (core func $open (canon lower (func $files "[method]descriptor.open-at")
    (memory (core memory $memory "memory")) string-encoding=utf8))
  (core module $code
    (import "memory" "memory" (memory 1))
    (import "host" "directories" (func $directories (param i32)))
    (import "host" "open" (func $open (param i32 i32 i32 i32 i32 i32 i32)))
    (data (i32.const 1024) "\"000\"")
    (func (export "run") (param $input i32) (param $length i32) (result i32)
      (local $number i32) (local $writes i32)
      ;; The first of the pairs of a directory and its name, each of 12 bytes.
      (call $directories (i32.const 192))
      ;; "into" begins with an i.
      (local.set $writes (i32.eq (i32.load8_u offset=2 (local.get $input)) (i32.const 105)))
      ;; The name lies between `{"path":"` and `"}`.
      (call $open (i32.load (i32.load (i32.const 192))) (i32.const 1)
        (i32.add (local.get $input) (i32.const 9)) (i32.sub (local.get $length) (i32.const 11))
        (local.get $writes) (i32.add (i32.const 1) (local.get $writes)) (i32.const 208))
      ;; result<own, error-code> at 208, its payload at 212.
      (if (i32.load8_u (i32.const 208))
        (then (local.set $number (i32.add (i32.const 1) (i32.load8_u (i32.const 212))))))
      (i32.store8 (i32.const 1026)
        (i32.add (i32.const 48) (i32.div_u (local.get $number) (i32.const 10))))
      (i32.store8 (i32.const 1027)
        (i32.add (i32.const 48) (i32.rem_u (local.get $number) (i32.const 10))))
      (i32.store8 (i32.const 16) (i32.const 0))
      (i32.store (i32.const 20) (i32.const 1024))
      (i32.store (i32.const 24) (i32.const 5))
      (i32.const 16)))
  (core instance $code (instantiate $code
    (with "memory" (instance $memory))
    (with "host" (instance
      (export "directories" (func $directories))
      (export "open" (func $open))))))
  (func $run (param "input" string) (result (result string (error string)))
    (canon lift (core func $code "run") (memory (core memory $memory "memory"))
      (realloc (core func $memory "realloc")) string-encoding=utf8))
  (instance $handler (export "run" (func $run)))
  (export "rune:tool/handler@0.1.0" (instance $handler)))
