from setuptools import find_packages, setup

PACKAGE = "s1_controller_node"

setup(
    name=PACKAGE,
    version="0.1.0",
    packages=find_packages(exclude=["test"]),
    package_data={},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/" + PACKAGE]),
        ("share/" + PACKAGE, ["package.xml"]),
    ],
    install_requires=["setuptools"],
    # colcon runs a package's tests with pytest when it finds this.
    extras_require={"test": ["pytest"]},
    zip_safe=False,
    maintainer="Dual Nav maintainers",
    maintainer_email="maintainers@dual-nav.dev",
    description="S1 controller node.",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "s1_controller = s1_controller_node.main:main",
            "cmd_vel_watchdog = s1_controller_node.main:watchdog",
        ]
    },
)
