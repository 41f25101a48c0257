import Foundation
import TestSupport
import XCTest

/// Tuners from outside with the real daemon and real traffic.
final class ModuleTests: ModuleTestCase {
  // MARK: The samples

  func testTheSampleInCTunes() async throws {
    let (namespace, directory) = try await place("igmp-groups")
    let without = try await namespace.join(groups: 12, attempts: 1)
    XCTAssertEqual(without, 5)
    let daemon = try await Daemon(
      "--allow", "igmp-groups", "--libdir", directory.path, "--rollback")
    // As Ctrl-C in a terminal does, and the end of a service: it is not theirs to heed.
    for host in Self.hosts().compactMap({ pid_t($0) }) {
      kill(host, SIGINT)
      kill(host, SIGTERM)
    }
    let with = try await namespace.join(groups: 12)
    let limit = try await namespace.sysctl(Self.groups)
    let tuners = try await bpftune("tuners")
    let explained = try await bpftune("explain", Self.groups)
    let tunables = try await bpftune("tunables")
    let verified = try await bpftune("verify")
    let history = try await bpftune("history", "--tuner", "igmp-groups")
    let check = try await bpftune("--libdir", directory.path, "--allow", "igmp-groups", "check")
    try await daemon.stop()
    let after = try await namespace.sysctl(Self.groups)
    await namespace.delete()
    print("igmp-groups: of 12 groups \(without) without, \(with) with the daemon")
    XCTAssertEqual(with, 12, daemon.command.output)
    XCTAssertEqual(limit, "20")
    XCTAssertEqual(daemon.changes(of: Self.groups).count, 3, daemon.command.output)
    XCTAssertTrue(
      daemon.changes(of: Self.groups).first?.contains("5 -> 10") ?? false, daemon.command.output)
    XCTAssertEqual(after, "5")
    XCTAssertTrue(tuners.contains("igmp-groups") && tuners.contains("enabled"), tuners)
    XCTAssertTrue(explained.contains("need to allow more multicast groups"), explained)
    XCTAssertTrue(explained.contains("refused a socket its multicast group"), explained)
    XCTAssertTrue(tunables.contains(Self.groups), tunables)
    XCTAssertTrue(verified.contains("hold their value"), verified)
    XCTAssertTrue(history.contains("10 -> 20"), history)
    XCTAssertTrue(check.contains("tracepoint/syscalls/sys_exit_setsockopt"), check)
    XCTAssertTrue(check.contains("bpftune works"), check)
  }

  func testTheSampleInSwiftTunes() async throws {
    let (namespace, directory) = try await place("igmp-sources")
    let without = try await namespace.filter(sources: 40, attempts: 1)
    XCTAssertFalse(without)
    let daemon = try await Daemon("--libdir", directory.path, "--allow", "igmp-sources")
    let with = try await namespace.filter(sources: 40)
    let limit = try await namespace.sysctl(Self.sources)
    // Less than the limit is no reason.
    let few = try await namespace.filter(sources: 3)
    try await daemon.stop()
    await namespace.delete()
    XCTAssertTrue(with, daemon.command.output)
    XCTAssertTrue(few)
    XCTAssertEqual(limit, "64")
    XCTAssertEqual(daemon.changes(of: Self.sources).count, 1, daemon.command.output)
  }

  // MARK: As for every other tuner

  func testDryRunOnlyAdvises() async throws {
    let (namespace, directory) = try await place("igmp-groups")
    let daemon = try await Daemon(
      "--allow", "igmp-groups", "--libdir", directory.path, "--dry-run")
    let joined = try await namespace.join(groups: 8, attempts: 3)
    let advice = try await daemon.line(containing: "advice: \(Self.groups) 5 -> 10")
    let limit = try await namespace.sysctl(Self.groups)
    try await daemon.stop()
    await namespace.delete()
    XCTAssertEqual(joined, 5)
    XCTAssertEqual(limit, "5")
    XCTAssertTrue(advice.contains("for it is in 5 already"), advice)
  }

  func testAnAdministratorsWriteDisablesIt() async throws {
    let (namespace, directory) = try await place("igmp-groups")
    let other = try await TestNamespace("other")
    try await other.set(Self.groups, "5")
    let daemon = try await Daemon("--allow", "igmp-groups", "--libdir", directory.path)
    _ = try await namespace.join(groups: 6)
    try await namespace.set(Self.groups, "7")
    try await daemon.line(containing: "igmp-groups is disabled in netns \(namespace.inode)")
    let joined = try await namespace.join(groups: 9, attempts: 3)
    let elsewhere = try await other.join(groups: 9)
    let explained = try await bpftune("explain", Self.groups, "--netns", "\(namespace.inode)")
    // Also where its file is replaced meanwhile,
    try directory.install("igmp-groups")
    try await daemon.line(containing: "loaded again")
    try await eventually("the new one") {
      daemon.lines.filter { $0.contains("igmp-groups is loaded") }.count == 2
    }
    let replaced = try await namespace.join(groups: 9, attempts: 3)
    // and not any more by command.
    let enabled = try await bpftune("enable", "igmp-groups")
    let allowed = try await namespace.join(groups: 9)
    try await daemon.stop()
    await namespace.delete()
    await other.delete()
    XCTAssertEqual(joined, 7, daemon.command.output)
    XCTAssertEqual(elsewhere, 9, daemon.command.output)
    XCTAssertTrue(explained.contains("administrator"), explained)
    XCTAssertEqual(replaced, 7, daemon.command.output)
    XCTAssertTrue(enabled.contains("is enabled everywhere"), enabled)
    XCTAssertEqual(allowed, 9, daemon.command.output)
  }

  /// After a crash, and without the module, the original comes back.
  func testRollsBackWithoutTheModule() async throws {
    let (namespace, directory) = try await place("igmp-groups")
    let state = directory.path + "/state"
    let options = ["--allow", "igmp-groups", "--libdir", directory.path, "--state-dir", state]
    let daemon = try await Daemon(options: options)
    let joined = try await namespace.join(groups: 12)
    daemon.command.signal(SIGKILL)
    try await daemon.command.wait()
    try await eventually("the host to end with the daemon") { Self.hosts().isEmpty }
    try directory.remove("igmp-groups")
    let left = try await namespace.sysctl(Self.groups)
    let rolledBack = try await bpftune("rollback", "--state-dir", state)
    let after = try await namespace.sysctl(Self.groups)
    await namespace.delete()
    XCTAssertEqual(joined, 12, daemon.command.output)
    XCTAssertEqual(left, "20")
    XCTAssertTrue(rolledBack.contains(Self.groups), rolledBack)
    XCTAssertEqual(after, "5")
  }

  // MARK: Files that come and go

  func testLoadsAndUnloadsAsFilesComeAndGo() async throws {
    let (namespace, directory) = try await place()
    // It does not exist yet, nor what it is in.
    let tuners = directory.path + "/lib/tuners"
    let daemon = try await Daemon("--libdir", tuners)
    let programs = BPFPrograms.ids()
    try FileManager.default.createDirectory(atPath: tuners, withIntermediateDirectories: true)
    for path in [directory.path + "/lib", tuners] { chmod(path, 0o755) }
    try directory.install("igmp-groups", as: "lib/tuners/igmp-groups.so")
    try await daemon.line(containing: "igmp-groups is loaded")
    let loaded = BPFPrograms.ids().subtracting(programs).count
    let with = try await namespace.join(groups: 7)
    let temporary = daemon.lines.filter { $0.contains("dpkg") || $0.contains("not loaded") }
    // While it runs.
    try FileManager.default.removeItem(atPath: tuners + "/igmp-groups.so")
    try await daemon.line(containing: "its tuner is unloaded")
    try await eventually("programs to go") {
      BPFPrograms.ids().subtracting(programs).isEmpty && Self.hosts().isEmpty
    }
    let without = try await namespace.join(groups: 12, attempts: 3)
    let listed = try await bpftune("tuners")
    try await daemon.stop()
    await namespace.delete()
    XCTAssertEqual(loaded, 2)
    XCTAssertEqual(with, 7, daemon.command.output)
    XCTAssertEqual(temporary, [])
    XCTAssertEqual(without, 10, daemon.command.output)
    XCTAssertFalse(listed.contains("igmp-groups"), listed)
  }

  // MARK: Those that misbehave

  /// What a module does, and how the daemon calls it.
  private static let faults: [(module: String, says: String)] = [
    ("crash", "crashed: Segmentation fault in event"),
    ("abort", "crashed: Aborted in event"),
    ("exit", "its process ended with status 3 in event"),
    ("hang", "takes longer than 1 s in event"),
    ("unknown-tunable", "returns nonsense: an adjustment of tunable 7, of 1"),
    ("out-of-bounds", "returns nonsense: \(groups) to 1281, where its own bounds are 0 to 1280"),
    ("long-text", "returns nonsense: the reason of an adjustment is longer than 255 bytes"),
    ("controls", "returns nonsense: the reason of an adjustment has control characters"),
    ("bytes", "returns nonsense: the reason of an adjustment is not UTF-8"),
    ("talks", "returns nonsense: more than 16 answers to one call"),
  ]

  func testThoseThatMisbehaveAreDisabled() async throws {
    let (namespace, directory) = try await place()
    let daemon = try await Daemon("--libdir", directory.path)
    let before = BPFPrograms.ids()
    for (module, words) in Self.faults {
      try directory.install(module)
      try await daemon.line(containing: "\(module) is loaded")
      _ = try await namespace.join(groups: 6, attempts: 1)
      try await eventually("\(module) to be disabled") {
        daemon.lines.contains { $0.contains("\(module) is disabled: \(words)") }
      }
      let listed = try await bpftune("tuners")
      XCTAssertTrue(listed.contains("\(module) is disabled: \(words)"), listed)
      try directory.remove(module)
      try await eventually("\(module) to be gone") { Self.hosts().isEmpty }
    }
    let limit = try await namespace.sysctl(Self.groups)
    let left = BPFPrograms.ids().subtracting(before)
    // The daemon goes on, also with one that behaves.
    try directory.install("igmp-groups")
    try await daemon.line(containing: "igmp-groups is loaded")
    let joined = try await namespace.join(groups: 12)
    let status = try await daemon.stop()
    await namespace.delete()
    XCTAssertEqual(limit, "5", daemon.command.output)
    XCTAssertEqual(left, [])
    XCTAssertEqual(joined, 12, daemon.command.output)
    XCTAssertEqual(status, 0)
  }

  func testThoseThatCannotBeLoadedSayWhy() async throws {
    let (namespace, directory) = try await place()
    let modules: [(module: String, says: String)] = [
      ("other-abi", "it is made for version 99 of the interface, this is 1"),
      ("unwilling", "cannot work here: there is no multicast here"),
      ("no-object", "its BPF object: open no-object"),
      ("escapes", "is no name of one tunable below net."),
      ("takes-others", "net.core.somaxconn is a tunable of the tuner tcp-listen already"),
      ("init-hangs", "takes longer than 1 s in init"),
      ("crash", "\(Self.groups) is a tunable of the tuner igmp-groups already"),
    ]
    let daemon = try await Daemon("--libdir", directory.path)
    for (module, words) in modules {
      // The first one has a tunable.
      if module == "crash" {
        try directory.install("igmp-groups")
        try await daemon.line(containing: "igmp-groups is loaded")
      }
      try directory.install(module)
      try await daemon.line(containing: "\(module).so is not loaded: ")
      let line = daemon.lines.first { $0.contains("\(module).so is not loaded: ") } ?? ""
      XCTAssertTrue(line.contains(words), line)
    }
    // Another name than that of its file, and no shared object at all.
    try directory.install("igmp-groups", as: "renamed.so")
    try await daemon.line(containing: "its file has to be igmp-groups.so")
    try Data("no ELF".utf8).write(to: URL(fileURLWithPath: directory.path + "/text.so"))
    try await daemon.line(containing: "text.so is not loaded: it cannot be loaded: file too short")
    let listed = try await bpftune("tuners")
    let joined = try await namespace.join(groups: 7)
    try await daemon.stop()
    await namespace.delete()
    XCTAssertTrue(listed.contains("other-abi is disabled: it is made for version 99"), listed)
    XCTAssertEqual(joined, 7, daemon.command.output)
  }

  /// The kernel keeps a module from all but thinking.
  func testAModuleCannotBreakOut() async throws {
    let (namespace, directory) = try await place("breaks-out")
    let daemon = try await Daemon("--libdir", directory.path)
    _ = try await namespace.join(groups: 6)
    let line = try await daemon.line(containing: "\(Self.groups) 5 -> 10")
    let host = try XCTUnwrap(Self.hosts().first)
    let status = try String(contentsOfFile: "/proc/\(host)/status", encoding: .utf8)
    let open = try FileManager.default.contentsOfDirectory(atPath: "/proc/\(host)/fd").map {
      (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/\(host)/fd/\($0)")) ?? ""
    }
    try await daemon.stop()
    await namespace.delete()
    XCTAssertTrue(line.hasSuffix("it could:"), line)
    for (key, value) in [
      ("CapPrm", "0000000000000000"), ("CapEff", "0000000000000000"), ("NoNewPrivs", "1"),
      ("Seccomp", "2"), ("SigBlk", "0000000000000000"),
    ] {
      XCTAssertTrue(status.contains("\(key):\t\(value)\n"), status)
    }
    let others = open.filter { $0 != "/dev/null" && !$0.hasPrefix("socket:") }
    XCTAssertEqual(others.filter { !$0.hasSuffix("/etc/hostname") }, [])
  }

  // MARK: Files that cannot be trusted

  func testFilesThatCannotBeTrustedAreRefused() async throws {
    let (namespace, directory) = try await place()
    let manager = FileManager.default
    let safe = directory.path + "/safe"
    try manager.createDirectory(atPath: safe, withIntermediateDirectories: false)
    chmod(safe, 0o755)
    let daemon = try await Daemon("--libdir", safe)
    func refused(_ words: String) async throws { _ = try await daemon.line(containing: words) }
    let file = safe + "/igmp-groups.so"

    // A file that others can write, that is another's, that is a link, that is none.
    try directory.install("igmp-groups", as: "safe/igmp-groups.so")
    try await daemon.line(containing: "igmp-groups is loaded")
    chmod(file, 0o664)
    try await refused("\(file) can be written by group or others (mode 664)")
    chown(file, 1, 0)
    chmod(file, 0o644)
    try await refused("\(file) belongs to user 1, not to root")
    try manager.removeItem(atPath: file)
    try directory.install("igmp-groups", as: "igmp-groups.elsewhere")
    symlink(directory.path + "/igmp-groups.elsewhere", file + ".dpkg-new")
    rename(file + ".dpkg-new", file)
    try await refused("\(file) is a symbolic link")
    try manager.removeItem(atPath: file)
    mkdir(file + ".dpkg-new", 0o755)
    rename(file + ".dpkg-new", file)
    try await refused("\(file) is no regular file")
    rmdir(file)

    // Names of package managers and editors are not even looked at.
    for name in [
      ".igmp-groups.so", "~igmp-groups.so", "igmp-groups.so;5f0c1a2b", "igmp-groups.so~",
    ] {
      try directory.install("igmp-groups", as: "safe/" + name)
    }
    // Once it can be trusted, it is loaded.
    try directory.install("igmp-groups", as: "safe/igmp-groups.so")
    try await eventually("the second load") {
      daemon.lines.filter { $0.contains("igmp-groups is loaded") }.count == 2
    }
    // The directory itself.
    chmod(safe, 0o777)
    try await refused(
      "no tuners are loaded from \(safe): \(safe) can be written by group or others")
    try await refused("\(file) is gone, or not to be trusted")
    try await daemon.stop()
    await namespace.delete()
    let noise = daemon.lines.filter { $0.contains("is not loaded") && !$0.contains(file) }
    XCTAssertEqual(noise, [])
    for words in ["(mode 664)", "belongs to user 1", "is a symbolic link", "is no regular file"] {
      XCTAssertEqual(daemon.lines.filter { $0.contains(words) }.count, 1, words)
    }
  }

  func testADirectoryOnTheWayThatCannotBeTrusted() async throws {
    let directory = try ModuleDirectory()
    let manager = FileManager.default
    try manager.createDirectory(
      atPath: directory.path + "/open/tuners", withIntermediateDirectories: true)
    chmod(directory.path + "/open", 0o775)
    symlink(directory.path + "/open", directory.path + "/link")
    for (path, words) in [
      ("/tmp", "no tuners are loaded from /tmp: /tmp can be written by group or others"),
      (
        directory.path + "/open/tuners",
        "\(directory.path)/open can be written by group or others (mode 775)"
      ),
      (directory.path + "/link/tuners", "\(directory.path)/link is a symbolic link"),
    ] {
      let daemon = try await Daemon("--allow", "tcp-listen", "--libdir", path)
      let line = try await daemon.line(containing: "no tuners are loaded from")
      try await daemon.stop()
      XCTAssertTrue(line.contains(words), line)
    }
  }
}
