;; A component with the world `rune:tool` that begins to look up the name of its input {"name":"NAME"}. Its error ends in
;; the number of the case of `wasi:sockets` that stopped it.
(component
  (import "wasi:sockets/network@0.2.0" (instance $networks
    (export "network" (type (sub resource)))
    (type $code_type (enum
      "unknown" "access-denied" "not-supported" "invalid-argument" "out-of-memory" "timeout"
      "concurrency-conflict" "not-in-progress" "would-block" "invalid-state" "new-socket-limit"
      "address-not-bindable" "address-in-use" "remote-unreachable" "connection-refused"
      "connection-reset" "connection-aborted" "datagram-too-large" "name-unresolvable"
      "temporary-resolver-failure" "permanent-resolver-failure"))
    (export "error-code" (type (eq $code_type)))
    (type $family_type (enum "ipv4" "ipv6"))
    (export "ip-address-family" (type (eq $family_type)))
    (type $v4_type (tuple u8 u8 u8 u8))
    (export "ipv4-address" (type $v4 (eq $v4_type)))
    (type $v6_type (tuple u16 u16 u16 u16 u16 u16 u16 u16))
    (export "ipv6-address" (type $v6 (eq $v6_type)))
    (type $ip_type (variant (case "ipv4" $v4) (case "ipv6" $v6)))
    (export "ip-address" (type (eq $ip_type)))))
  (alias export $networks "network" (type $network))
  (alias export $networks "error-code" (type $code))
  (import "wasi:sockets/instance-network@0.2.0" (instance $instance_network
    (alias outer 1 $network (type $the_network))
    (export "network" (type $net (eq $the_network)))
    (export "instance-network" (func (result (own $net))))))
  (import "wasi:sockets/ip-name-lookup@0.2.0" (instance $lookup
    (alias outer 1 $network (type $the_network))
    (export "network" (type $net (eq $the_network)))
    (alias outer 1 $code (type $the_code))
    (export "error-code" (type $failed (eq $the_code)))
    (export "resolve-address-stream" (type $stream (sub resource)))
    (export "resolve-addresses" (func
      (param "network" (borrow $net)) (param "name" string)
      (result (result (own $stream) (error $failed)))))))
  (core module $memory
    (memory (export "memory") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 8192)))
  (core instance $memory (instantiate $memory))
  (core func $network (canon lower (func $instance_network "instance-network")))
  (core func $resolve (canon lower (func $lookup "resolve-addresses")
    (memory (core memory $memory "memory")) string-encoding=utf8))
  (core module $code
    (import "memory" "memory" (memory 1))
    (import "host" "network" (func $network (result i32)))
    (import "host" "resolve" (func $resolve (param i32 i32 i32 i32)))
    (data (i32.const 2048) "lookup failed with case 00")
    (data (i32.const 2100) "\"looking\"")
    (func $answer (param $case i32) (param $at i32) (param $length i32) (result i32)
      (i32.store8 (i32.const 16) (local.get $case))
      (i32.store (i32.const 20) (local.get $at))
      (i32.store (i32.const 24) (local.get $length))
      (i32.const 16))
    (func $failed (param $case i32) (result i32)
      (i32.store8 (i32.const 2072)
        (i32.add (i32.const 48) (i32.div_u (local.get $case) (i32.const 10))))
      (i32.store8 (i32.const 2073)
        (i32.add (i32.const 48) (i32.rem_u (local.get $case) (i32.const 10))))
      (call $answer (i32.const 1) (i32.const 2048) (i32.const 26)))
    (func (export "run") (param $input i32) (param $length i32) (result i32)
      ;; The name lies between `{"name":"` and `"}`; result<own, error-code> at 64.
      (call $resolve (call $network) (i32.add (local.get $input) (i32.const 9))
        (i32.sub (local.get $length) (i32.const 11)) (i32.const 64))
      (if (i32.load8_u (i32.const 64))
        (then (return (call $failed (i32.load8_u (i32.const 68))))))
      (call $answer (i32.const 0) (i32.const 2100) (i32.const 9))))
  (core instance $code (instantiate $code
    (with "memory" (instance $memory))
    (with "host" (instance
      (export "network" (func $network))
      (export "resolve" (func $resolve))))))
  (func $run (param "input" string) (result (result string (error string)))
    (canon lift (core func $code "run") (memory (core memory $memory "memory"))
      (realloc (core func $memory "realloc")) string-encoding=utf8))
  (instance $handler (export "run" (func $run)))
  (export "rune:tool/handler@0.1.0" (instance $handler)))
