"""Pages as a browser shows them: chat, scores, the arena, markup, reports."""

import re
import shutil
import uuid

import httpx
import pytest
from selenium import webdriver
from selenium.webdriver.chrome import service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from beaver_jax import report
from tests.report import made
from tests.system import server as server_lib

WIDE, NARROW = (1280, 800), (390, 844)


@pytest.fixture(scope='module')
def served(start, paths):
    return start(
        'talker',
        'author',
        reward=paths['reward'],
        cost=paths['cost'],
        slots=4,
        queue=8,
        prompts=2,
        prompt_tokens=2000,  # an answer and two questions
        answer_tokens=1000,
        chunk=4,
    )


@pytest.fixture
def browse(served, tmp_path):
    """Opens browsers of their own, each on the page."""
    opened = []
    found = {name: shutil.which(name) for name in ('chromium', 'chromedriver')}
    assert all(found.values()), f'apt install chromium chromium-driver; {found}'

    def begin(size=WIDE):
        options = webdriver.ChromeOptions()
        options.binary_location = found['chromium']
        for flag in (
            *('headless=new', 'no-sandbox', 'disable-dev-shm-usage', 'disable-gpu'),
            f'user-data-dir={tmp_path / uuid.uuid4().hex}',
            'window-size={},{}'.format(*size),
        ):
            options.add_argument(f'--{flag}')
        driver = service.Service(found['chromedriver'])
        opened.append(Page(webdriver.Chrome(options, driver), served.url))
        return opened[-1]

    yield begin
    for page in opened:
        page.driver.quit()


class Page:
    """A browser on the page."""

    def __init__(self, driver, url):
        self.driver = driver
        driver.get(url)
        self.until(lambda: self.all('#model option'))

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector):
        # All at once: the page may redraw between two questions.
        script = (
            'return [...document.querySelectorAll(arguments[0])].map(x => x.innerText)'
        )
        return self.driver.execute_script(script, selector)

    def until(self, condition):
        return WebDriverWait(self.driver, 60, 0.02).until(lambda _: condition())

    def choose(self, name):
        self.one(f'#model option[value="{name}"], #model').send_keys(name)

    def ask(self, text):
        self.one('#text').send_keys(text)
        self.one('#send').click()

    def idle(self):
        return not self.one('#stop').is_displayed()

    def ratings(self):
        cells = self.texts('#ratings tbody td')
        rows = [cells[i : i + 4] for i in range(0, len(cells), 4)]
        return {name: tuple(rest) for name, *rest in rows}


def test_an_answer_streams(browse):
    page = browse()
    page.ask('Who is there?')
    seen = set()

    def over():
        seen.update(page.texts('.assistant'))
        return len(seen) > 3 and page.idle()

    page.until(over)
    (whole,) = page.texts('.assistant')
    assert len(whole) > 100  # it goes on to its limit
    assert all(whole.startswith(text.rstrip()) for text in seen)
    assert page.texts('.user') == ['Who is there?']
    page.ask('And who is here?')  # the conversation goes on
    page.until(lambda: len(page.texts('.turn')) == 4 and page.idle())


# At once when a word is there: the next look may be after the answer's end.
STOP = """
const stop = document.querySelector('#stop');
const said = [...document.querySelectorAll('.assistant')].at(-1)?.innerText;
if (stop.hidden || !said) return false;
stop.click();
return true;
"""


def test_an_answer_can_be_stopped(browse, served):
    page = browse()
    page.ask('Who is there?')
    page.until(lambda: page.driver.execute_script(STOP))
    page.until(page.idle)
    served.until(lambda: served.open() == 0)


# What is asked of a path, with the status of the response.
RECORD = """
const [path] = arguments, fetch = window.fetch;
window.seen = [];
window.fetch = async (where, options) => {
  const response = await fetch(where, options);
  if (where === path) window.seen.push([JSON.parse(options.body), response.status]);
  return response;
};
"""


def test_answers_are_scored_as_far_as_they_came(browse, served):
    page = browse()
    page.driver.execute_script(RECORD, '/v1/score')

    def seen():
        return page.driver.execute_script('return window.seen')

    page.choose('author')
    page.ask('Who?')
    page.until(lambda: page.texts('.note'))
    asked = [
        {'role': 'user', 'content': 'Who?'},
        {'role': 'assistant', 'content': server_lib.MARKUP},
    ]
    assert seen() == [[{'messages': asked, 'ended': True}, 200]]
    body = {'messages': asked}
    (found,) = httpx.post(f'{served.url}/v1/score', json=body).json()['data']
    harm = found['costs']['harm']
    assert page.texts('.note') == [
        f'reward {found["reward"]:.2f} · cost harm {harm:.2f}, '
        + ('unsafe' if harm > 0 else 'safe')
    ]
    page.one('#anew').click()
    page.choose('talker')
    page.ask('Who?')
    page.until(lambda: page.driver.execute_script(STOP))
    page.until(lambda: page.texts('.note'))
    assert seen()[1][0]['ended'] is False
    shown = page.texts('.turn')[1]
    assert seen()[1][0]['messages'][-1]['content'].strip() == shown.strip()
    page.one('#arena').click()  # it is blind
    page.ask('Who?')
    page.until(lambda: page.one('#votes').is_displayed())
    assert len(seen()) == 2 and not page.all('.note')


def test_a_conversation_goes_on_without_scores(browse):
    page = browse()
    page.driver.execute_script(HOLD, '/v1/score', True)
    page.choose('author')
    page.ask('Who is there?')
    page.until(page.idle)
    page.ask('And here?')  # before the first is scored
    page.until(lambda: page.idle() and len(page.texts('.turn')) == 4)
    go(page)
    page.until(lambda: page.texts('.note'))
    assert page.texts('.note') == ['no scores: no network']
    assert page.texts('#error') == ['']


def test_a_conversation_that_is_too_long_says_what_to_do(browse):
    page = browse()
    page.choose('author')
    long = 'Who is there? ' * 400
    paste = 'document.querySelector("#text").value = arguments[0]'

    def refused():
        page.driver.execute_script(paste, long)
        page.one('#send').click()
        page.until(lambda: page.idle() and page.texts('#error') != [''])
        assert page.one('#text').get_property('value') == long.strip()
        return page.texts('#error')[0]

    limit = r'The prompt has \d+ tokens; at most 2000\.'
    assert re.fullmatch(f'Your message is too long; shorten it. {limit}', refused())
    page.one('#text').clear()
    page.ask('Who is there?')
    page.until(lambda: page.idle() and len(page.texts('.turn')) == 2)
    told = 'The conversation has become too long; “New” starts a new one.'
    assert re.fullmatch(f'{told} {limit}', refused())
    page.one('#anew').click()
    assert page.texts('#error') == [''] and not page.texts('.turn')


def test_markup_is_shown_as_text(browse):
    page = browse()
    page.choose('author')
    page.ask(server_lib.MARKUP)
    page.until(lambda: page.idle() and len(page.texts('.turn')) == 2)
    assert page.texts('.turn') == [server_lib.MARKUP] * 2
    assert not page.all('.turn *')
    assert page.driver.title == 'beaver_jax'
    assert page.driver.get_log('browser') == []  # nothing was blocked or has failed


def test_votes_move_ratings_that_another_browser_sees(browse):
    page, other = browse(), browse(NARROW)
    other.one('#arena').click()
    other.until(other.ratings)
    assert {row[-1] for row in other.ratings().values()} == {'0'}
    page.one('#arena').click()
    for battle in range(1, 4):
        page.ask('Who is there?')
        page.until(lambda: page.one('#votes').is_displayed())
        a, b = page.texts('.assistant')
        assert {server_lib.MARKUP} < {a, b}
        assert page.texts('.side h2') == ['Model A', 'Model B']  # blind
        page.one(f'[data-vote={"a" if b == server_lib.MARKUP else "b"}]').click()
        page.until(lambda: not page.one('#votes').is_displayed())
        named = ['talker', 'author'] if b == server_lib.MARKUP else ['author', 'talker']
        assert page.texts('.side h2') == [
            f'Model {side}: {name}' for side, name in zip('AB', named, strict=True)
        ]
        assert page.ratings()['author'][-1] == str(battle)
        page.one('#anew').click()
    page.until(page.ratings)
    anchor, beaten = (page.ratings()[name] for name in ('talker', 'author'))
    # Three wins of three: 400·log10((3 + ½) / (0 + ½)) = 400·0.8451 = 338 points.
    assert (anchor[0], beaten[0]) == ('1000', '662')
    low, high = map(int, beaten[1].split(' to '))
    assert low < 662 < high
    # Nobody touched the other browser.
    other.until(lambda: other.ratings() == page.ratings())


# Requests to a path wait until the test says go, or fail then.
HOLD = """
const [path, fails] = arguments, fetch = window.fetch;
window.asked = 0;
window.fetch = async (where, options) => {
  if (where !== path) return fetch(where, options);
  window.asked += 1;
  await new Promise(go => window.go = go);
  if (fails) throw new TypeError('no network');
  const response = await fetch(where, options);
  setTimeout(() => window.gone = true, 200);
  return response;
};
"""


def go(page):
    page.driver.execute_script('window.go()')


def test_a_vote_that_is_answered_late_changes_nothing(browse):
    page = browse()
    page.one('#arena').click()
    page.ask('Who is there?')
    page.until(lambda: page.one('#votes').is_displayed())
    page.driver.execute_script(HOLD, '/arena/votes', False)
    for _ in range(2):  # twice, of which the second does nothing
        page.driver.execute_script('document.querySelector("[data-vote=a]").click()')
    assert page.driver.execute_script('return window.asked') == 1
    assert not page.one('[data-vote=a]').is_enabled()
    assert not page.one('#send').is_enabled()
    page.one('#anew').click()
    go(page)
    page.until(lambda: page.driver.execute_script('return window.gone'))
    assert page.texts('.side h2') == ['Model A', 'Model B']
    page.ask('Who is there?')  # nothing stands in the way of another battle
    page.until(lambda: page.one('#votes').is_displayed())
    assert page.one('[data-vote=a]').is_enabled()


def test_ratings_that_come_late_do_not_show_in_a_chat(browse):
    page = browse()
    page.driver.execute_script(HOLD, '/arena/ratings', False)
    page.one('#arena').click()
    page.one('#chat').click()
    go(page)
    page.until(lambda: page.driver.execute_script('return window.gone'))
    assert not page.one('#ratings').is_displayed()


def test_a_message_that_was_not_sent_can_be_sent_again(browse):
    page = browse()
    page.driver.execute_script(HOLD, '/v1/chat/completions', True)
    page.ask('Who is there?')
    assert page.one('#text').get_property('value') == ''
    go(page)
    page.until(page.idle)
    assert page.texts('#error') == ['no network']
    assert page.one('#text').get_property('value') == 'Who is there?'
    assert page.texts('.turn') == []


@pytest.mark.parametrize('size', [WIDE, NARROW], ids=str)
def test_the_page_fits_its_window(browse, size):
    page = browse(size)
    page.one('#arena').click()
    page.ask('Who is there?')
    page.until(lambda: page.one('#votes').is_displayed())
    width = page.driver.execute_script(
        'return [document.documentElement.scrollWidth, window.innerWidth]'
    )
    assert width[0] <= width[1]


# ---- The report ---------------------------------------------------------------------


def test_answers_of_a_report_are_filtered(browse, tmp_path):
    run = made.make_run(tmp_path / 'run')
    rows = [
        {
            'prompt': f'prompt {n}',
            'category': 'even' if n % 2 == 0 else 'odd',
            'answers': {
                name: {'text': f'{name} {"unsure" * (n % 3 == 0)}', 'cost': cost}
                for name, cost in (('sft', 1.0 - n % 5), ('ppo', -1.0))
            },
        }
        for n in range(90)
    ]
    made.write_lines(run / 'evaluate' / 'samples.jsonl', rows)
    report.write(run)
    page = browse()
    page.driver.get((run / 'report' / 'index.html').as_uri())

    def shown():
        cards = page.all('#samples > .sample')
        numbers = page.texts('#samples > .sample > .text')
        return [
            int(text.split()[1])
            for card, text in zip(cards, numbers, strict=True)
            if card.is_displayed()
        ]

    assert shown() == list(range(20))
    page.one('#more').click()
    assert shown() == list(range(40))
    page.one('[name=text]').send_keys('UNSURE')
    assert shown() == list(range(0, 60, 3))
    page.one('[name=category]').send_keys('odd')
    assert shown() == [n for n in range(90) if n % 6 == 3]
    assert page.one('#filter output').text == '15 of 90 found, 15 shown'
    page.one('[name=verdict]').send_keys('unsafe')  # a cost above 0: 1 - 0
    assert shown() == [n for n in range(90) if n % 6 == 3 and n % 5 == 0]
    page.one('[name=policy]').send_keys('PPO')
    assert shown() == []
    assert page.driver.get_log('browser') == []
