import CShims
import Tuners
import XCTest

@testable import Kernel

/// What a module may say of itself.
final class ModuleDescriptionTests: XCTestCase {
  private func fill<T>(_ target: inout T, _ text: String) {
    withUnsafeMutableBytes(of: &target) { bytes in
      bytes.copyBytes(from: Array(text.utf8.prefix(bytes.count)))
    }
  }

  /// A description that is in order.
  private func proper() -> bpftune_said_description {
    var said = bpftune_said_description()
    said.object_size = 100
    said.tunable_count = 1
    said.scenario_count = 1
    said.signal_count = 1
    fill(&said.name, "some-tuner")
    fill(&said.description, "tunes something")
    fill(&said.tunables.0.name, "net.ipv4.tcp_rmem")
    said.tunables.0.arity = UInt32(BPFTUNE_TRIPLE.rawValue)
    said.tunables.0.maximum = 1000
    fill(&said.scenarios.0, "need to do something")
    fill(&said.signals.0.name, "something happened")
    fill(&said.signals.0.programs.0, "something")
    return said
  }

  private func read(
    _ change: (inout bpftune_said_description) -> Void
  ) throws -> ModuleDescription {
    var said = proper()
    change(&said)
    return try withUnsafeBytes(of: &said) { try ModuleDescription($0) }
  }

  func testReadsWhatIsInOrder() throws {
    let module = try read { _ in }
    XCTAssertEqual(module.name, "some-tuner")
    XCTAssertEqual(module.tunables.first?.bounds, 0...1000)
    XCTAssertEqual(module.tunables.first?.arity, .triple)
    XCTAssertEqual(module.signals.first?.programs, ["something"])
    XCTAssertEqual(module.strategies, [])
  }

  func testNonsenseIsRefused() {
    let cases: [(String, (inout bpftune_said_description) -> Void)] = [
      ("its name \"Some\"", { self.fill(&$0.name, "Some\0") }),
      ("its name is empty", { $0.name.0 = 0 }),
      ("its name is longer", { self.fill(&$0.name, String(repeating: "x", count: 64)) }),
      ("control characters", { self.fill(&$0.description, "a\nb") }),
      ("control characters", { self.fill(&$0.description, "\u{202e}evil") }),
      ("not UTF-8", { $0.description.0 = -1 }),
      ("0 tunables", { $0.tunable_count = 0 }),
      ("9 tunables", { $0.tunable_count = 9 }),
      ("4294967295 scenarios", { $0.scenario_count = .max }),
      ("0 signals", { $0.signal_count = 0 }),
      ("5 strategies", { $0.strategy_count = 5 }),
      ("unknown arity 2", { $0.tunables.0.arity = 2 }),
      ("unknown scope 7", { $0.tunables.0.scope = 7 }),
      ("the bounds", { $0.tunables.0.minimum = 1001 }),
      ("number 1 of its tunables is empty", { $0.tunable_count = 2 }),
      (
        "a tunable twice",
        {
          $0.tunable_count = 2
          $0.tunables.1 = $0.tunables.0
        }
      ),
      ("no program tells", { $0.signals.0.programs.0.0 = 0 }),
      ("0 bytes", { $0.object_size = 0 }),
      ("bytes", { $0.object_size = 5 << 20 }),
      (
        "cannot evaluate",
        {
          $0.strategy_count = 2
          self.fill(&$0.strategies.0, "one")
          self.fill(&$0.strategies.1, "two")
        }
      ),
    ]
    for (words, change) in cases {
      XCTAssertThrowsError(try read(change), words) { error in
        XCTAssertTrue("\(error)".contains(words), "\(error) does not say: \(words)")
      }
    }
  }

  func testItsLengthHasToBeRight() throws {
    var said = proper()
    try withUnsafeBytes(of: &said) { bytes in
      for count in [0, 1, 8, bytes.count - 1] {
        XCTAssertThrowsError(
          try ModuleDescription(UnsafeRawBufferPointer(rebasing: bytes[..<count])))
      }
    }
  }

  func testTunablesStayBelowNet() {
    for name in ["net.ipv4.tcp_rmem", "net.core.somaxconn", "net.netfilter.nf-x_Y2"] {
      XCTAssertTrue(ModuleDescription.isTunable(name), name)
    }
    for name in [
      "kernel.core_pattern", "net", "net.", ".net.ipv4", "net..x", "net.ipv4./../kernel.x",
      "net.ipv4.*.x", "net/ipv4/x", "net.ipv4.x y", "network.x",
      "net." + String(repeating: "x", count: 60),
    ] {
      XCTAssertFalse(ModuleDescription.isTunable(name), name)
    }
  }

  func testNamesOfFiles() {
    for name in ["a.so", "igmp-groups.so"] { XCTAssertTrue(ModuleFile.isName(name), name) }
    for name in [
      ".so", ".a.so", "~a.so", "a.so.dpkg-new", "a.so.dpkg-tmp", "a.so;5f0c1a2b", "a;5f0c1a2b.so",
      "a.so~", "a.txt", "",
    ] {
      XCTAssertFalse(ModuleFile.isName(name), name)
    }
  }

  func testSectionsOfPrograms() {
    func family(_ section: String) -> Hook.Family? {
      Hook.Attachment(section: section).map { Hook($0, section).family }
    }
    XCTAssertEqual(family("tp_btf/neigh_create"), .tracepoint)
    XCTAssertEqual(family("tracepoint/syscalls/sys_exit_setsockopt"), .tracepoint)
    XCTAssertEqual(family("fentry/tcp_v4_connect"), .fentry)
    XCTAssertEqual(family("kretprobe/tcp_v4_connect"), .kprobe)
    XCTAssertEqual(family("sockops"), .sockOps)
    XCTAssertEqual(family("cgroup/setsockopt"), .cgroup)
    for section in ["cgroup/sysctl", "fmod_ret/x", "lsm/x", "xdp", "struct_ops/x", "", "tp_btf"] {
      XCTAssertNil(family(section), section)
    }
  }
}
