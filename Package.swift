// swift-tools-version: 6.2
import PackageDescription

let swiftSettings: [SwiftSetting] = [
  .enableUpcomingFeature("ExistentialAny")
]

/// What `make tarball` asks for: glibc inside, too. Of the flags, static-pie is for
/// an address of its own at each start; only lld can do it.
let staticLink: [LinkerSetting] =
  Context.environment["BPFTUNE_STATIC"] == nil
  ? []
  : [
    .unsafeFlags([
      "-static-executable", "-use-ld=lld", "-Xclang-linker", "-static-pie",
    ])
  ]

let package = Package(
  name: "bpftune",
  products: [
    .executable(name: "bpftune", targets: ["App"])
  ],
  dependencies: [
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.0"),
    .package(url: "https://github.com/apple/swift-log", from: "1.16.0"),
    .package(url: "https://github.com/apple/swift-nio", from: "2.101.2"),
    .package(url: "https://github.com/apple/swift-system", from: "1.8.0"),
  ],
  targets: [
    // The daemon, from the top down: each imports only those below it.
    .executableTarget(
      name: "App",
      dependencies: [
        "Tuners", "State", "Kernel", "CShims",
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
        .product(name: "Logging", package: "swift-log"),
        .product(name: "NIOCore", package: "swift-nio"),
        .product(name: "NIOPosix", package: "swift-nio"),
        .product(name: "NIOHTTP1", package: "swift-nio"),
      ],
      swiftSettings: swiftSettings, linkerSettings: staticLink),
    .target(
      name: "Tuners",
      dependencies: ["State", "Kernel", .product(name: "Logging", package: "swift-log")],
      swiftSettings: swiftSettings),
    .target(name: "State", dependencies: ["Kernel", "CShims"], swiftSettings: swiftSettings),
    .target(
      name: "Kernel",
      dependencies: ["CShims", .product(name: "SystemPackage", package: "swift-system")],
      swiftSettings: swiftSettings,
      plugins: ["EmbedBPFObjects"]),
    .target(
      name: "CShims",
      cSettings: [.unsafeFlags(["-Wall", "-Wextra", "-Werror", "-I/usr/include/libnl3"])],
      linkerSettings: [
        .linkedLibrary("bpf"), .linkedLibrary("elf"), .linkedLibrary("z"),
        .linkedLibrary("nl-3"), .linkedLibrary("nl-route-3"), .linkedLibrary("sqlite3"),
      ]),

    // Runs one tuner from outside; started by the daemon for each.
    .executableTarget(
      name: "bpftune-module-host", path: "Sources/ModuleHost",
      cSettings: [
        .headerSearchPath("../CShims/include"),
        .unsafeFlags(["-Wall", "-Wextra", "-Werror", "-O2"]),
      ]),

    // At build time: bpf/*.bpf.c -> object -> Swift source in Kernel.
    .plugin(name: "EmbedBPFObjects", capability: .buildTool(), dependencies: ["EmbedBPF"]),
    .executableTarget(name: "EmbedBPF", swiftSettings: swiftSettings),

    .testTarget(
      name: "PolicyTests", dependencies: ["TestSupport", "Tuners", "State", "Kernel", "CShims"],
      swiftSettings: swiftSettings),
    .testTarget(
      name: "IntegrationTests",
      dependencies: [
        "TestSupport", "Kernel", "State", "Tuners", .product(name: "Logging", package: "swift-log"),
      ],
      swiftSettings: swiftSettings),
    // What the integration tests and the benchmarks share.
    .target(
      name: "TestSupport", dependencies: ["CShims", "Kernel"], path: "Tests/Support",
      swiftSettings: swiftSettings,
      plugins: ["BuildModules"]),
    // Samples/ and Tests/Modules: tuners as shared objects, built by their script.
    .plugin(name: "BuildModules", capability: .buildTool()),
    .executableTarget(
      name: "bpftune-bench",
      dependencies: [
        "BenchLoop", "TestSupport", "Tuners", "Kernel", "CShims",
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
        .product(name: "Logging", package: "swift-log"),
      ],
      path: "Sources/Bench", swiftSettings: swiftSettings),
    .executableTarget(
      name: "bpftune-demo", dependencies: ["TestSupport"], path: "Sources/Demo",
      swiftSettings: swiftSettings),
    .target(name: "BenchLoop", linkerSettings: [.linkedLibrary("bpf")]),
    // A path with delay, loss and a rate between two namespaces.
    .executableTarget(
      name: "path-emulator", path: "Tests/PathEmulator",
      cSettings: [.unsafeFlags(["-Wall", "-Wextra", "-Werror", "-O2"])]),
    // Adds neighbours as fast as the kernel takes them.
    .executableTarget(
      name: "neighbour-adder", path: "Tests/NeighbourAdder",
      cSettings: [.unsafeFlags(["-Wall", "-Wextra", "-Werror", "-O2"])]),
    // Listeners, bursts and floods, and connections that transfer something.
    .executableTarget(
      name: "tcp-load", path: "Tests/TCPLoad",
      cSettings: [.unsafeFlags(["-Wall", "-Wextra", "-Werror", "-O2"])]),
    // The choice of tcp-conn with a clock of its own: a day in a moment.
    .executableTarget(
      name: "choice-simulator", path: "Tests/ChoiceSimulator",
      cSettings: [
        .headerSearchPath("kernel"), .headerSearchPath("../../bpf"),
        .headerSearchPath("../../Sources/CShims/include"),
        // Type information for the kernel means nothing here.
        .unsafeFlags(["-Wall", "-Wextra", "-Werror", "-Wno-unknown-attributes", "-O2"]),
      ]),
    // Sends packets as fast as the kernel takes them.
    .executableTarget(
      name: "packet-sender", path: "Tests/PacketSender",
      cSettings: [.unsafeFlags(["-Wall", "-Wextra", "-Werror", "-O2"])]),
  ],
  swiftLanguageModes: [.v6],
  cLanguageStandard: .gnu11
)
