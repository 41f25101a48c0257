// Shows bpftune at work: two namespaces, a path of 20 ms between them, buffers
// that are too small, and what the daemon makes of it. Puts everything back.
import Foundation
import TestSupport

@main
struct Demo {
  static let wmem = "net.ipv4.tcp_wmem"
  static let rmem = "net.ipv4.tcp_rmem"

  static func main() async {
    do {
      guard geteuid() == 0 else { throw Command.Failure("needs root: run it with sudo") }
      try await show()
    } catch {
      FileHandle.standardError.write(Data("bpftune-demo: \(error)\n".utf8))
      exit(1)
    }
  }

  static func show() async throws {
    print("Two namespaces, a path of 1 Gbit/s and 20 ms between them, small TCP buffers.")
    let path = try await Path(delay: 10, options: ["--rate-mbit", "1000"])
    try await path.setLargeBuffers()
    try await path.left.set(wmem, "4096 16384 65536")
    try await path.right.set(rmem, "4096 131072 262144")
    try await printBuffers(path)
    let server = try await Iperf.server(in: path.right)

    print("\nWithout bpftune:")
    try await transfer(path)

    print("\nWith bpftune:")
    let daemon = try await Daemon("--rollback", "--allow", "tcp-buffer")
    try await transfer(path)
    try await transfer(path)
    daemon.changes(of: wmem).forEach { print("  \($0)") }
    daemon.changes(of: rmem).forEach { print("  \($0)") }

    print("\nStopped with --rollback:")
    try await daemon.stop()
    try await printBuffers(path)
    server.signal(SIGTERM)
    await path.close()
  }

  static func transfer(_ path: Path) async throws {
    let result = try await Iperf.run(from: path.left, to: Path.rightAddress.v4, seconds: 4)
    print("  one connection of 4 s: \(Int(result.rate)) Mbit/s")
  }

  static func printBuffers(_ path: Path) async throws {
    print("  sender's   \(wmem) = \(try await path.left.sysctl(wmem))")
    print("  receiver's \(rmem) = \(try await path.right.sysctl(rmem))")
  }
}
