from glob import glob

from setuptools import find_packages, setup

PACKAGE = "dual_nav_bringup"

setup(
    name=PACKAGE,
    version="0.1.0",
    packages=find_packages(exclude=["test"]),
    package_data={},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/" + PACKAGE]),
        ("share/" + PACKAGE, ["package.xml"]),
        ("share/" + PACKAGE + "/launch", glob("launch/*.launch.xml")),
        ("share/" + PACKAGE + "/config", glob("config/*")),
        ("share/" + PACKAGE + "/rviz", glob("rviz/*.rviz")),
    ],
    install_requires=["setuptools"],
    # colcon runs a package's tests with pytest when it finds this.
    extras_require={"test": ["pytest"]},
    zip_safe=False,
    maintainer="Dual Nav maintainers",
    maintainer_email="maintainers@dual-nav.dev",
    description="Launch, replay and system tests.",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "doctor = dual_nav_bringup.doctor:main",
            "make_bag = dual_nav_bringup.make_bag:main",
            "recorder = dual_nav_bringup.recorder:main",
            "replay = dual_nav_bringup.replay:main",
            "soak = dual_nav_bringup.soak:main",
            "run_launch = dual_nav_bringup.launch_runner:main",
        ]
    },
)
