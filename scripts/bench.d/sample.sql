-- A shop's database for measurements: the same rows in every run. :scale 1 makes
-- a dump of a little more than 1 GiB before compression.
set max_parallel_workers_per_gather = 0; -- parallel workers would draw from random() in any order
set jit = off;
select setseed(0.25);

create temporary table words as select array[
    'the','of','and','to','in','is','for','on','that','with','as','was','be','by','at','from','or','an','this','not',
    'order','customer','please','delivery','address','before','after','noon','ring','bell','leave','parcel','with',
    'neighbour','invoice','payment','received','late','damaged','return','refund','replacement','colour','size','large',
    'small','medium','blue','green','black','white','red','yellow','gift','wrap','card','happy','birthday','thank','you',
    'very','much','call','when','arrived','door','garden','back','front','floor','second','third','left','right','lift',
    'weekend','monday','friday','morning','evening','urgent','fragile','glass','wood','metal','cotton','warehouse','stock',
    'missing','item','quantity','price','discount','voucher','account','password','reset','mail','newsletter','cancel',
    'subscription','month','year','contract','support','ticket','number','question','answer','waiting','since','week',
    'product','quality','good','bad','excellent','poor','average','recommend','friend','shop','online','mobile','phone',
    'keyboard','screen','cable','battery','charger','lamp','chair','table','shelf','cupboard','carpet','curtain','towel'
] as w;
create temporary table names as select
    array['Anna','Ben','Clara','David','Emma','Felix','Greta','Hannes','Ida','Jonas','Klara','Leon','Mia','Noah','Olga',
          'Paul','Rosa','Simon','Tilda','Umut','Vera','Willem','Xenia','Yusuf','Zoe','Marta','Luis','Chiara','Pavel','Aiko'] as f,
    array['Smith','Miller','Garcia','Rossi','Novak','Yilmaz','Kowalski','Jansen','Dubois','Silva','Andersen','Nagy','Ivanova',
          'Tanaka','Okafor','Haddad','Nguyen','Peters','Weber','Fischer','Moreau','Costa','Lindqvist','Virtanen','Horvat'] as l,
    array['Berlin','Lisbon','Oslo','Madrid','Prague','Vienna','Athens','Dublin','Warsaw','Ghent','Porto','Turin','Lyon',
          'Graz','Malmo','Bergen','Utrecht','Leipzig','Bologna','Krakow'] as c,
    array['example.com','mail.example','post.example.org','web.example.net','corp.example.com'] as d;

create table customers (
    id uuid primary key, email text not null, name text not null, phone text, street text, city text, postcode text,
    created_at timestamptz not null, active boolean not null, profile jsonb not null
);
insert into customers
select md5('customer' || i)::uuid,
       lower(f || '.' || l) || i || '@' || dom, f || ' ' || l,
       '+' || (10 + random() * 89)::int || ' ' || (100000000 + random() * 899999999)::bigint,
       initcap(w[1 + (random() * 150)::int % array_length(w, 1)]) || ' Street ' || (1 + random() * 200)::int,
       city, lpad((random() * 99999)::int::text, 5, '0'),
       timestamptz '2019-01-01' + random() * interval '2000 days', random() < 0.93,
       jsonb_build_object('plan', case when random() < 0.7 then 'free' when random() < 0.8 then 'plus' else 'team' end,
           'newsletter', random() < 0.4, 'score', round((random() * 100)::numeric, 3), 'locale', lower(left(city, 2)),
           'token', md5(random()::text), 'last_login', timestamptz '2024-01-01' + random() * interval '700 days',
           'tags', jsonb_build_array(w[1 + (random() * 60)::int], w[1 + (random() * 60)::int]))
from (select i, f[1 + (random() * 29)::int] as f, l[1 + (random() * 24)::int] as l, c[1 + (random() * 19)::int] as city,
             d[1 + (random() * 4)::int] as dom, w
      from generate_series(1, (460000 * :scale)::int) as i, names, words offset 0) as picked;

create table orders (
    id bigint primary key, customer_id uuid not null, status text not null, total numeric(12, 2) not null,
    currency char(3) not null, placed_at timestamptz not null, shipped_at timestamptz, reference text not null, note text
);
insert into orders
select i, md5('customer' || (1 + random() * 460000 * :scale)::int)::uuid,
       (array['new','paid','packed','shipped','delivered','returned'])[1 + (random() * 5)::int],
       (random() * random() * 900)::numeric(12, 2), (array['EUR','USD','GBP','SEK'])[1 + (3 * random() * random())::int],
       timestamptz '2020-01-01' + i * interval '75 seconds' + random() * interval '60 seconds',
       case when random() < 0.8 then timestamptz '2020-01-02' + i * interval '75 seconds' + random() * interval '9 days' end,
       upper(left(md5(random()::text), 12)),
       case when random() < 0.25 then w[1 + (random() * 130)::int] || ' ' || w[1 + (random() * 130)::int] || ' ' ||
            w[1 + (random() * 130)::int] || ' ' || w[1 + (random() * 130)::int] || ' ' || w[1 + (random() * 130)::int] end
from generate_series(1, (2600000 * :scale)::int) as i, words;
create index on orders (customer_id);

create table events (
    id bigint primary key, at timestamptz not null, customer_id uuid, kind text not null, ip inet not null,
    agent text not null, payload jsonb not null
);
insert into events
select i, timestamptz '2023-01-01' + i * interval '45 seconds' + random() * interval '40 seconds',
       case when random() < 0.6 then md5('customer' || (1 + random() * 460000 * :scale)::int)::uuid end,
       (array['view','search','add','remove','login','logout','pay'])[1 + (6 * random() * random())::int],
       ('10.' || (random() * 255)::int || '.' || (random() * 255)::int || '.' || (random() * 255)::int)::inet,
       (array['Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0',
              'Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/126.0 Safari/537.36',
              'Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 Safari/604.1',
              'shop-app/4.2 (Android 14)'])[1 + (random() * 3)::int],
       jsonb_build_object('session', md5((i / 7)::text), 'path', '/' || w[1 + (random() * 130)::int] || '/' ||
           (random() * 90000)::int, 'ms', (random() * random() * 4000)::int, 'status', case when random() < 0.97 then 200
           else 404 end, 'ref', w[1 + (random() * 130)::int], 'cart', round((random() * 500)::numeric, 2))
from generate_series(1, (1500000 * :scale)::int) as i, words;
create index on events (at);

create table messages (id bigint primary key, customer_id uuid not null, written_at timestamptz not null, body text not null);
insert into messages
select i, md5('customer' || (1 + random() * 460000 * :scale)::int)::uuid,
       timestamptz '2022-01-01' + random() * interval '900 days',
       (select string_agg(word, ' ') from
            (select w[1 + (140 * random() * random())::int] as word from generate_series(1, 150 + i % 200)) as picked)
from generate_series(1, (90000 * :scale)::int) as i, words;
